"""The native step runner, as LLVM IR text: walks the table of steps, alone or by several threads together.

int64_t mapsto_run(Job*)        walks from `start`; gives the step where it stopped (a Bind, a failed Require, the end)
void* mapsto_worker(Worker*)    the life of one worker thread: waits for a job, walks it, until told to stop int64_t
mapsto_stop(Pool*)      tells the workers of an idle pool to end

Threads meet at barriers: each counts itself in; the last one starts a new generation. Who waits spins for a bounded
number of rounds, then sleeps on a futex (futex(2)). A waiter registers as sleeper before it looks at the word a last
time (inside the futex call), and who changes the word looks for sleepers after that; both are sequentially consistent,
so no wake-up is lost.

How long to spin is learned: where the system has put two threads on one processor (others are busy), the one that
spins keeps the one it waits for from running. Each wait that ends in sleep halves the patience, each that spinning
ended doubles it, and every 32nd wait tries in full. On two busy processors, 110 barriers take 2 ms so, and 10 to 30
where every wait spins for 0.1 ms.

All words of the structures below are 8 bytes unless said otherwise; `pool.py` and `tables.py` fill them.
"""

from __future__ import annotations

VERSION = 1  # of these structures; an artifact carries a compiled runner and says which

# Job: words
JOB_POOL, JOB_ROWS, JOB_START, JOB_SINGLE, JOB_PROFILE, JOB_WORDS = 0, 1, 2, 3, 4, 8

# Row: words. `word` is a kind, plus BARRIER where the threads meet before the step.
ROW_FUNCTION, ROW_OPERANDS, ROW_DIMS, ROW_EXTENT, ROW_SHARES, ROW_WORD, ROW_TARGET, ROW_CONDITION, ROW_WORDS = range(9)
STOP, RUN, BRANCH, JUMP, REQUIRE = range(5)
BARRIER = 256

# Pool: bytes. The words that threads wait on are 4 bytes, each on a cache line of its own.
POOL_JOBS, POOL_ARRIVED, POOL_GENERATION, POOL_IDLE_SLEEPERS, POOL_BARRIER_SLEEPERS, POOL_STOP = (
    0,
    64,
    128,
    192,
    256,
    320,
)
POOL_THREADS, POOL_SPIN_IDLE, POOL_SPIN_BARRIER, POOL_JOB, POOL_PATIENCE, POOL_WORKERS = 384, 392, 400, 408, 448, 512
POOL_WAITS = POOL_PATIENCE + 8
LEAST_SPIN = 20  # rounds
WORKER_BYTES = 16  # pool, index of the thread


def runner_ir(arch: str) -> str:
    """The runner for an architecture: `x86_64`, `aarch64`, or another one that Linux runs on with the generic system
    call numbers.
    """
    machine = _MACHINES.get(arch, _Machine())
    text = _BODY.replace("@FUTEX@", str(machine.futex)).replace("@PAUSE@", machine.pause)
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
  %slot = getelementptr i8, ptr %pool, i64 {POOL_JOB}
  store ptr %job, ptr %slot
  %jobs = getelementptr i8, ptr %pool, i64 {POOL_JOBS}
  %idle = getelementptr i8, ptr %pool, i64 {POOL_IDLE_SLEEPERS}
  call void @advance(ptr %jobs, ptr %idle)
  %last.together = call i64 @walk(ptr %job, i64 0)
  call void @meet(ptr %pool)
  br label %done
done:
  %last = phi i64 [ %last.serial, %serial ], [ %last.together, %together ]
  @LEAVE@
  ret i64 %last
}}

define ptr @mapsto_worker(ptr %worker) {{
  @ENTER@
  %pool = load ptr, ptr %worker
  %index.at = getelementptr i64, ptr %worker, i64 1
  %index = load i64, ptr %index.at
  %jobs = getelementptr i8, ptr %pool, i64 {POOL_JOBS}
  %idle = getelementptr i8, ptr %pool, i64 {POOL_IDLE_SLEEPERS}
  %stop.at = getelementptr i8, ptr %pool, i64 {POOL_STOP}
  %slot = getelementptr i8, ptr %pool, i64 {POOL_JOB}
  %spin.at = getelementptr i8, ptr %pool, i64 {POOL_SPIN_IDLE}
  %spin = load i64, ptr %spin.at
  br label %wait
wait:
  %seen = phi i32 [ 0, %0 ], [ %now, %work ]
  %rounds = call i64 @await(ptr %jobs, ptr %idle, i32 %seen, i64 %spin)
  %now = load atomic i32, ptr %jobs acquire, align 4
  %stop = load atomic i32, ptr %stop.at acquire, align 4
  %ends = icmp ne i32 %stop, 0
  br i1 %ends, label %out, label %work
work:
  %job = load ptr, ptr %slot
  %last = call i64 @walk(ptr %job, i64 %index)
  %was.last = call i1 @arrive(ptr %pool) ; the caller waits for all; a worker need not
  br label %wait
out:
  ret ptr null
}}

define i64 @mapsto_stop(ptr %pool) {{
  %jobs = getelementptr i8, ptr %pool, i64 {POOL_JOBS}
  %idle = getelementptr i8, ptr %pool, i64 {POOL_IDLE_SLEEPERS}
  %stop.at = getelementptr i8, ptr %pool, i64 {POOL_STOP}
  store atomic i32 1, ptr %stop.at release, align 4
  call void @advance(ptr %jobs, ptr %idle)
  ret i64 0
}}

define internal i64 @walk(ptr %job, i64 %thread) {{
  %clock = alloca [2 x i64]
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
  %flag = and i64 %word, {BARRIER}
  %flagged = icmp ne i64 %flag, 0
  %flagged.again = and i1 %flagged, %again
  %meets = and i1 %flagged.again, %several
  br i1 %meets, label %barrier, label %dispatch
barrier:
  call void @meet(ptr %pool)
  br label %dispatch
dispatch:
  %kind = and i64 %word, 255
  switch i64 %kind, label %done [
    i64 {RUN}, label %run
    i64 {BRANCH}, label %branch
    i64 {JUMP}, label %jump
    i64 {REQUIRE}, label %require
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

run:
  %since = call i64 @now(ptr %clock, i1 %profiles)
  %shares.at = getelementptr i64, ptr %row, i64 {ROW_SHARES}
  %shares = load i64, ptr %shares.at
  %works = icmp slt i64 %thread, %shares
  br i1 %works, label %share, label %ran
share:
  %extent.at = getelementptr i64, ptr %row, i64 {ROW_EXTENT}
  %extent = load i64, ptr %extent.at
  %whole = icmp eq i64 %shares, 1
  br i1 %whole, label %call, label %divide
divide:
  %low = mul i64 %extent, %thread
  %high = add i64 %low, %extent
  %low.share = udiv i64 %low, %shares
  %high.share = udiv i64 %high, %shares
  br label %call
call:
  %begin = phi i64 [ 0, %share ], [ %low.share, %divide ]
  %end = phi i64 [ %extent, %share ], [ %high.share, %divide ]
  %function = load ptr, ptr %row
  %operands.at = getelementptr i64, ptr %row, i64 {ROW_OPERANDS}
  %operands = load ptr, ptr %operands.at
  %dims.at = getelementptr i64, ptr %row, i64 {ROW_DIMS}
  %dims = load ptr, ptr %dims.at
  call void %function(ptr %operands, ptr %dims, i64 %begin, i64 %end)
  br label %ran
ran:
  br i1 %profiles, label %measure, label %advance
measure: ; every thread's work counts: the step ends when the last one has done its share
  br i1 %several, label %gather, label %record
gather:
  call void @meet(ptr %pool)
  br label %record
record:
  %first = icmp eq i64 %thread, 0
  br i1 %first, label %add, label %advance
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
  %next = phi i64 [ %after, %branch ], [ %target, %jump ], [ %after, %require ],
                  [ %after, %ran ], [ %after, %record ], [ %after, %add ]
  br label %step
done:
  ret i64 %pc
}}

; nanoseconds of the monotonic clock, or 0 where nobody asks
define internal i64 @now(ptr %clock, i1 %asked) {{
  br i1 %asked, label %read, label %skip
read:
  %ignored = call i32 @clock_gettime(i32 1, ptr %clock)
  %seconds = load i64, ptr %clock
  %nanos.at = getelementptr i64, ptr %clock, i64 1
  %nanos = load i64, ptr %nanos.at
  %scaled = mul i64 %seconds, 1000000000
  %time = add i64 %scaled, %nanos
  ret i64 %time
skip:
  ret i64 0
}}

; all threads of the pool wait here for each other
define internal void @meet(ptr %pool) {{
  %generation = getelementptr i8, ptr %pool, i64 {POOL_GENERATION}
  %seen = load atomic i32, ptr %generation acquire, align 4 ; cannot change before this thread arrives
  %last = call i1 @arrive(ptr %pool)
  br i1 %last, label %out, label %wait
wait:
  %sleepers = getelementptr i8, ptr %pool, i64 {POOL_BARRIER_SLEEPERS}
  %most.at = getelementptr i8, ptr %pool, i64 {POOL_SPIN_BARRIER}
  %most = load i64, ptr %most.at
  %patience.at = getelementptr i8, ptr %pool, i64 {POOL_PATIENCE}
  %patience = load atomic i64, ptr %patience.at monotonic, align 8
  %waits.at = getelementptr i8, ptr %pool, i64 {POOL_WAITS}
  %waits = load atomic i64, ptr %waits.at monotonic, align 8
  %waits.new = add i64 %waits, 1
  store atomic i64 %waits.new, ptr %waits.at monotonic, align 8 ; may lose counts: it only sets a rhythm
  %beat = and i64 %waits, 31
  %tries = icmp eq i64 %beat, 0
  %spin = select i1 %tries, i64 %most, i64 %patience
  %rounds = call i64 @await(ptr %generation, ptr %sleepers, i32 %seen, i64 %spin)
  %slept = icmp slt i64 %rounds, 0
  br i1 %slept, label %less, label %waited
less:
  %half = lshr i64 %patience, 1
  %few = icmp ult i64 %half, {LEAST_SPIN}
  %lower = select i1 %few, i64 {LEAST_SPIN}, i64 %half
  br label %learn
waited:
  %instant = icmp eq i64 %rounds, 0
  br i1 %instant, label %out, label %more
more:
  %double = shl i64 %patience, 1
  br label %learn
learn:
  %wanted = phi i64 [ %lower, %less ], [ %double, %more ]
  %many = icmp ugt i64 %wanted, %most
  %kept = select i1 %many, i64 %most, i64 %wanted
  %same = icmp eq i64 %kept, %patience
  br i1 %same, label %out, label %store
store:
  store atomic i64 %kept, ptr %patience.at monotonic, align 8
  br label %out
out:
  ret void
}}

; counts this thread in; the last one lets all go on
define internal i1 @arrive(ptr %pool) {{
  %arrived = getelementptr i8, ptr %pool, i64 {POOL_ARRIVED}
  %threads.at = getelementptr i8, ptr %pool, i64 {POOL_THREADS}
  %threads = load i32, ptr %threads.at
  %before = atomicrmw add ptr %arrived, i32 1 acq_rel, align 4
  %count = add i32 %before, 1
  %last = icmp eq i32 %count, %threads
  br i1 %last, label %release, label %out
release:
  store atomic i32 0, ptr %arrived monotonic, align 4
  %generation = getelementptr i8, ptr %pool, i64 {POOL_GENERATION}
  %sleepers = getelementptr i8, ptr %pool, i64 {POOL_BARRIER_SLEEPERS}
  call void @advance(ptr %generation, ptr %sleepers)
  br label %out
out:
  ret i1 %last
}}

; changes a word that others wait on, and wakes those that sleep
define internal void @advance(ptr %word, ptr %sleepers) {{
  %old = atomicrmw add ptr %word, i32 1 seq_cst, align 4
  %count = load atomic i32, ptr %sleepers seq_cst, align 4
  %none = icmp eq i32 %count, 0
  br i1 %none, label %out, label %wake
wake:
  %woken = call i64 (i64, ...) @syscall(i64 @FUTEX@, ptr %word, i64 129, i64 2147483647, ptr null, ptr null, i64 0)
  br label %out
out:
  ret void
}}

; until the word is no longer what was seen: spins for a while, then sleeps; gives the rounds it spun, -1 if it slept
define internal i64 @await(ptr %word, ptr %sleepers, i32 %seen, i64 %spin) {{
  br label %look
look:
  %round = phi i64 [ 0, %0 ], [ %round.next, %pause ]
  %now = load atomic i32, ptr %word acquire, align 4
  %same = icmp eq i32 %now, %seen
  br i1 %same, label %more, label %out
more:
  %patient = icmp ult i64 %round, %spin
  br i1 %patient, label %pause, label %register
pause:
  @PAUSE@
  %round.next = add i64 %round, 1
  br label %look
register:
  %one = atomicrmw add ptr %sleepers, i32 1 seq_cst, align 4
  br label %check
check:
  %later = load atomic i32, ptr %word seq_cst, align 4
  %still = icmp eq i32 %later, %seen
  br i1 %still, label %sleep, label %awake
sleep:
  %seen.wide = zext i32 %seen to i64
  %slept = call i64 (i64, ...) @syscall(i64 @FUTEX@, ptr %word, i64 128, i64 %seen.wide, ptr null, ptr null, i64 0)
  br label %check
awake:
  %gone = atomicrmw sub ptr %sleepers, i32 1 seq_cst, align 4
  ret i64 -1
out:
  ret i64 %round
}}
"""
