"""The native step runner, as LLVM IR text: walks the table of steps, alone or by several threads together.

int64_t mapsto_run(Job*)        walks from `start`; gives the step where it stopped (a Bind, a failed Require or Bounds,
                                the end, or another step before which it paused), or -1 where it could not begin
                                (JOB_ERROR says why; 0: its turn has not come)

`pool_ir` has the workers and the barriers at which they meet.

A long walk pauses: at steps marked POLL, the first thread looks at the clock, and when a slice of time is over the walk
gives back its step. The caller goes on there after Python has done what waits for it (signal handlers). Threads pause
together: the first one names the meeting at which they do before it arrives there itself, so all see the name when they
have met. The clock is the coarse one (CLOCK_MONOTONIC_COARSE, good to 4 ms), which takes 8 ns where the fine one
takes 30.

All words of the structures below are 8 bytes unless said otherwise; `pool.py` and `tables.py` fill them.
"""

from __future__ import annotations

from mapsto.runtime.pool_ir import (
    POOL_BODY,
    POOL_GENERATION,
    POOL_GONE,
    POOL_IDLE_SLEEPERS,
    POOL_JOB,
    POOL_JOBS,
    POOL_STARTED,
)

RUNNER_VERSION = 4  # of these structures; an artifact carries a compiled runner and says which

# Job: words
JOB_POOL, JOB_ROWS, JOB_START, JOB_SINGLE, JOB_PROFILE, JOB_SLICE, JOB_PAUSE, JOB_ERROR, JOB_WORDS = range(9)
SLICE_NS = 50_000_000  # how long a walk goes on before it pauses

# Row: words. `word` is a kind, plus BARRIER where the threads meet before the step, plus POLL where the first one looks
# at the clock before it (a Run; where there are several threads, a BARRIER too).
# A Run whose ROW_PIECE is not 0 is divided up to ROW_FIXED only; the rest is taken piece by piece by who is free first.
# ROW_CLAIMED counts the pieces that were asked for; it is 0 between two walks of the row.
ROW_FUNCTION, ROW_OPERANDS, ROW_DIMS, ROW_EXTENT, ROW_SHARES, ROW_WORD, ROW_TARGET, ROW_CONDITION = range(8)
ROW_FIXED, ROW_PIECE, ROW_CLAIMED, ROW_WORDS = range(8, 12)
STOP, RUN, BRANCH, JUMP, REQUIRE, BOUNDS = range(6)
BARRIER, POLL = 256, 512


def runner_ir(arch: str) -> str:
    """The runner for an architecture: `x86_64`, `aarch64`, or another one that Linux runs on with the generic system
    call numbers.
    """
    machine = _MACHINES.get(arch, _Machine())
    text = (_BODY + POOL_BODY).replace("@FUTEX@", str(machine.futex)).replace("@PAUSE@", machine.pause)
    text = text.replace("@ENTER@", machine.enter).replace("@LEAVE@", machine.leave)
    return text + machine.declarations


class _Machine:
    """What differs by architecture. `enter` saves the floating-point mode and sets the default one (no flush to zero,
    round to nearest), so that every thread computes the same bits whatever other libraries did to the caller's mode;
    `leave` restores it.
    """

    futex = 98
    pause = ""
    enter = ""
    leave = ""
    declarations = ""


class _X86(_Machine):
    futex = 202
    pause = "call void @llvm.x86.sse2.pause()"
    enter = """%mode = alloca i32
  %usual = alloca i32
  store i32 8064, ptr %usual ; 0x1f80
  call void @llvm.x86.sse.stmxcsr(ptr %mode)
  call void @llvm.x86.sse.ldmxcsr(ptr %usual)"""
    leave = "call void @llvm.x86.sse.ldmxcsr(ptr %mode)"
    declarations = """
declare void @llvm.x86.sse2.pause()
declare void @llvm.x86.sse.stmxcsr(ptr)
declare void @llvm.x86.sse.ldmxcsr(ptr)
"""


class _Arm64(_Machine):
    pause = "call void @llvm.aarch64.isb(i32 15)"
    enter = """%mode = call i64 @llvm.aarch64.get.fpcr()
  call void @llvm.aarch64.set.fpcr(i64 0)"""
    leave = "call void @llvm.aarch64.set.fpcr(i64 %mode)"
    declarations = """
declare void @llvm.aarch64.isb(i32)
declare i64 @llvm.aarch64.get.fpcr()
declare void @llvm.aarch64.set.fpcr(i64)
"""


_MACHINES: dict[str, _Machine] = {"x86_64": _X86(), "aarch64": _Arm64()}

_BODY = f"""
declare i64 @syscall(i64, ...)
declare i32 @clock_gettime(i32, ptr)

define i64 @mapsto_run(ptr %job) {{
  @ENTER@
  %pool = load ptr, ptr %job
  %alone = icmp eq ptr %pool, null
  br i1 %alone, label %serial, label %together
serial:
  %last.serial = call i64 @walk(ptr %job, i64 0)
  br label %done
together:
  %error.at = getelementptr i64, ptr %job, i64 {JOB_ERROR}
  store i64 0, ptr %error.at
  %gone.at = getelementptr i8, ptr %pool, i64 {POOL_GONE}
  %gone = load atomic i64, ptr %gone.at acquire, align 8
  %there = icmp eq i64 %gone, 0
  br i1 %there, label %turn, label %done
turn:
  %mine = call i1 @own(ptr %pool)
  br i1 %mine, label %owned, label %done
owned:
  %started.at = getelementptr i8, ptr %pool, i64 {POOL_STARTED}
  %started = load i64, ptr %started.at
  %first = icmp eq i64 %started, 0
  br i1 %first, label %start, label %publish
start:
  %error = call i64 @start(ptr %pool)
  store i64 %error, ptr %error.at
  %begun = icmp eq i64 %error, 0
  br i1 %begun, label %publish, label %leave
publish:
  %pause.at = getelementptr i64, ptr %job, i64 {JOB_PAUSE}
  store i64 0, ptr %pause.at
  %slot = getelementptr i8, ptr %pool, i64 {POOL_JOB}
  store ptr %job, ptr %slot
  %jobs = getelementptr i8, ptr %pool, i64 {POOL_JOBS}
  %idle = getelementptr i8, ptr %pool, i64 {POOL_IDLE_SLEEPERS}
  call void @advance(ptr %jobs, ptr %idle)
  %last.together = call i64 @walk(ptr %job, i64 0)
  %ignored = call i64 @meet(ptr %pool)
  br label %leave
leave:
  %last.owned = phi i64 [ -1, %start ], [ %last.together, %publish ]
  call void @disown(ptr %pool)
  br label %done
done:
  %last = phi i64 [ %last.serial, %serial ], [ -1, %together ], [ -1, %turn ], [ %last.owned, %leave ]
  @LEAVE@
  ret i64 %last
}}

define internal i64 @walk(ptr %job, i64 %thread) {{
  %clock = alloca [2 x i64]
  %slice.end = alloca i64 ; when the slice ends; 0: it has not begun
  store i64 0, ptr %slice.end
  %pool = load ptr, ptr %job
  %rows.at = getelementptr i64, ptr %job, i64 {JOB_ROWS}
  %rows = load ptr, ptr %rows.at
  %start.at = getelementptr i64, ptr %job, i64 {JOB_START}
  %start = load i64, ptr %start.at
  %single.at = getelementptr i64, ptr %job, i64 {JOB_SINGLE}
  %single.word = load i64, ptr %single.at
  %single = icmp ne i64 %single.word, 0
  %profile.at = getelementptr i64, ptr %job, i64 {JOB_PROFILE}
  %profile = load ptr, ptr %profile.at
  %profiles = icmp ne ptr %profile, null
  %several = icmp ne ptr %pool, null
  %leads = icmp eq i64 %thread, 0
  %slice.at = getelementptr i64, ptr %job, i64 {JOB_SLICE}
  %pause.at = getelementptr i64, ptr %job, i64 {JOB_PAUSE}
  br label %step

step:
  %pc = phi i64 [ %start, %0 ], [ %next, %advance ]
  %fresh = phi i1 [ true, %0 ], [ false, %advance ]
  %row.offset = mul i64 %pc, {ROW_WORDS}
  %row = getelementptr i64, ptr %rows, i64 %row.offset
  %word.at = getelementptr i64, ptr %row, i64 {ROW_WORD}
  %word = load i64, ptr %word.at
  %after = add i64 %pc, 1
  %again = xor i1 %fresh, true
  %halts = and i1 %single, %again
  br i1 %halts, label %done, label %gate
gate:
  %marks = and i64 %word, {BARRIER | POLL}
  %unmarked = icmp eq i64 %marks, 0
  %passes = or i1 %unmarked, %fresh
  br i1 %passes, label %dispatch, label %marked
marked:
  %poll = and i64 %word, {POLL}
  %polled = icmp ne i64 %poll, 0
  %looks = and i1 %polled, %leads
  br i1 %looks, label %look, label %may.meet
look:
  %over = call i1 @is_over(ptr %clock, ptr %slice.end, ptr %slice.at)
  br i1 %over, label %pause, label %may.meet
pause:
  br i1 %several, label %announce, label %done
announce:
  %generation.at = getelementptr i8, ptr %pool, i64 {POOL_GENERATION}
  %generation = load atomic i32, ptr %generation.at monotonic, align 4 ; cannot change before this thread arrives
  %opens = add i32 %generation, 1
  %opens.wide = zext i32 %opens to i64
  %named = or i64 %opens.wide, {1 << 32}
  store atomic i64 %named, ptr %pause.at monotonic, align 8
  br label %barrier
may.meet:
  %flag = and i64 %word, {BARRIER}
  %flagged = icmp ne i64 %flag, 0
  %meets = and i1 %flagged, %several
  br i1 %meets, label %barrier, label %dispatch
barrier:
  %meeting = call i64 @meet(ptr %pool)
  %pausing = load atomic i64, ptr %pause.at monotonic, align 8
  %pauses = icmp eq i64 %pausing, %meeting
  br i1 %pauses, label %done, label %dispatch
dispatch:
  %kind = and i64 %word, 255
  switch i64 %kind, label %done [
    i64 {RUN}, label %run
    i64 {BRANCH}, label %branch
    i64 {JUMP}, label %jump
    i64 {REQUIRE}, label %require
    i64 {BOUNDS}, label %bounds
  ]

branch:
  %cond.at = getelementptr i64, ptr %row, i64 {ROW_CONDITION}
  %cond.place = load ptr, ptr %cond.at
  %cond = load i8, ptr %cond.place
  %false = icmp eq i8 %cond, 0
  br i1 %false, label %jump, label %advance
jump:
  %target.at = getelementptr i64, ptr %row, i64 {ROW_TARGET}
  %target = load i64, ptr %target.at
  br label %advance
require:
  %checked.at = getelementptr i64, ptr %row, i64 {ROW_EXTENT}
  %checked = load i64, ptr %checked.at
  %fails = icmp slt i64 %checked, 0
  br i1 %fails, label %done, label %advance
bounds:
  %distance.at = getelementptr i64, ptr %row, i64 {ROW_CONDITION}
  %distance.place = load ptr, ptr %distance.at
  %distance = load i64, ptr %distance.place
  %limit.at = getelementptr i64, ptr %row, i64 {ROW_EXTENT}
  %limit = load i64, ptr %limit.at
  %outside = icmp uge i64 %distance, %limit
  br i1 %outside, label %done, label %advance

run:
  %since = call i64 @now(ptr %clock, i1 %profiles)
  %shares.at = getelementptr i64, ptr %row, i64 {ROW_SHARES}
  %shares = load i64, ptr %shares.at
  %works = icmp slt i64 %thread, %shares
  br i1 %works, label %share, label %ran
share:
  %extent.at = getelementptr i64, ptr %row, i64 {ROW_EXTENT}
  %extent = load i64, ptr %extent.at
  %function = load ptr, ptr %row
  %operands.at = getelementptr i64, ptr %row, i64 {ROW_OPERANDS}
  %operands = load ptr, ptr %operands.at
  %dims.at = getelementptr i64, ptr %row, i64 {ROW_DIMS}
  %dims = load ptr, ptr %dims.at
  %whole = icmp eq i64 %shares, 1
  br i1 %whole, label %call, label %divide
divide:
  %fixed.at = getelementptr i64, ptr %row, i64 {ROW_FIXED}
  %fixed = load i64, ptr %fixed.at
  %piece.at = getelementptr i64, ptr %row, i64 {ROW_PIECE}
  %piece = load i64, ptr %piece.at
  %low = mul i64 %fixed, %thread
  %high = add i64 %low, %fixed
  %low.share = udiv i64 %low, %shares
  %high.share = udiv i64 %high, %shares
  br label %call
call:
  %begin = phi i64 [ 0, %share ], [ %low.share, %divide ]
  %end = phi i64 [ %extent, %share ], [ %high.share, %divide ]
  %left = phi i64 [ 0, %share ], [ %piece, %divide ]
  %from = phi i64 [ 0, %share ], [ %fixed, %divide ]
  call void %function(ptr %operands, ptr %dims, i64 %begin, i64 %end)
  %claims = icmp ne i64 %left, 0
  br i1 %claims, label %claim, label %ran
claim:
  %claimed.at = getelementptr i64, ptr %row, i64 {ROW_CLAIMED}
  %claimed = atomicrmw add ptr %claimed.at, i64 1 monotonic, align 8
  %taken = mul i64 %claimed, %left
  %piece.begin = add i64 %from, %taken
  %there = icmp slt i64 %piece.begin, %extent
  br i1 %there, label %take, label %none
take:
  %piece.stop = add i64 %piece.begin, %left
  %past = icmp sgt i64 %piece.stop, %extent
  %piece.end = select i1 %past, i64 %extent, i64 %piece.stop
  call void %function(ptr %operands, ptr %dims, i64 %piece.begin, i64 %piece.end)
  br label %claim
none: ; each thread asks in vain once; the last of them makes the row ready for its next walk, which is after a meeting
  %rest = sub i64 %extent, %from
  %rest.up = add i64 %rest, %left
  %rest.top = sub i64 %rest.up, 1
  %pieces = udiv i64 %rest.top, %left
  %asked = add i64 %pieces, %shares
  %asked.last = sub i64 %asked, 1
  %closes = icmp eq i64 %claimed, %asked.last
  br i1 %closes, label %close, label %ran
close:
  store atomic i64 0, ptr %claimed.at monotonic, align 8
  br label %ran
ran:
  br i1 %profiles, label %measure, label %advance
measure: ; every thread's work counts: the step ends when the last one has done its share
  br i1 %several, label %gather, label %record
gather:
  %gathered = call i64 @meet(ptr %pool)
  br label %record
record:
  br i1 %leads, label %add, label %advance
add:
  %until = call i64 @now(ptr %clock, i1 true)
  %spent = sub i64 %until, %since
  %entry.index = mul i64 %pc, 2
  %entry = getelementptr i64, ptr %profile, i64 %entry.index
  %total = load i64, ptr %entry
  %total.new = add i64 %total, %spent
  store i64 %total.new, ptr %entry
  %calls.at = getelementptr i64, ptr %entry, i64 1
  %calls = load i64, ptr %calls.at
  %calls.new = add i64 %calls, 1
  store i64 %calls.new, ptr %calls.at
  br label %advance

advance:
  %next = phi i64 [ %after, %branch ], [ %target, %jump ], [ %after, %require ], [ %after, %bounds ],
                  [ %after, %ran ], [ %after, %record ], [ %after, %add ]
  br label %step
done:
  ret i64 %pc
}}

; whether the slice of time is over; the first look begins it
define internal i1 @is_over(ptr %clock, ptr %until.at, ptr %slice.at) {{
  %ignored = call i32 @clock_gettime(i32 6, ptr %clock)
  %time = call i64 @nanoseconds(ptr %clock)
  %until = load i64, ptr %until.at
  %begins = icmp eq i64 %until, 0
  br i1 %begins, label %begin, label %compare
begin:
  %slice = load i64, ptr %slice.at
  %end = add i64 %time, %slice
  store i64 %end, ptr %until.at
  ret i1 false
compare:
  %over = icmp sge i64 %time, %until
  ret i1 %over
}}

define internal i64 @nanoseconds(ptr %clock) {{
  %seconds = load i64, ptr %clock
  %nanos.at = getelementptr i64, ptr %clock, i64 1
  %nanos = load i64, ptr %nanos.at
  %scaled = mul i64 %seconds, 1000000000
  %time = add i64 %scaled, %nanos
  ret i64 %time
}}

; nanoseconds of the monotonic clock, or 0 where nobody asks
define internal i64 @now(ptr %clock, i1 %asked) {{
  br i1 %asked, label %read, label %skip
read:
  %ignored = call i32 @clock_gettime(i32 1, ptr %clock)
  %time = call i64 @nanoseconds(ptr %clock)
  ret i64 %time
skip:
  ret i64 0
}}
"""
