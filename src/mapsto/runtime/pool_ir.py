"""The native pool, as LLVM IR text: its workers' lives, whose turn it is, and how threads meet.

void* mapsto_worker(Worker*)    the life of one worker thread: waits for a job, walks it, until told to end
int64_t mapsto_stop(Pool*)      ends the workers and waits for them; -1 where another thread's job goes on

One job at a time: who runs one owns the pool from before the first worker hears of it until the last is done with it.
It is owned in native code only, where no Python code (a signal handler, a finaliser, a trace function) can run on the
thread that owns it: so nothing that Python does can wait for the pool while its own thread holds it. Workers start with
the first job.

Threads meet at barriers: each counts itself in; the last one starts a new generation. Who waits spins for a bounded
number of rounds, then sleeps on a futex (futex(2)). A waiter registers as sleeper before it looks at the word a last
time (inside the futex call), and who changes the word looks for sleepers after that; both are sequentially consistent,
so no wake-up is lost.

How long to spin is learned: where the system has put two threads on one processor (others are busy), the one that
spins keeps the one it waits for from running. Each wait that ends in sleep halves the patience, each that spinning
ended doubles it, and every 32nd wait tries in full: where that ends by spinning, all do again. On two busy processors,
110 barriers take 2 ms so, and 10 to 30 where every wait spins for 0.1 ms.

Owning is a futex too (U. Drepper, "Futexes are tricky", section 6): 0 free, 1 owned, 2 owned and somebody may wait. Who
waits comes back after a while, or when a signal arrives, so that Python can look at it.
"""

from __future__ import annotations

# Bytes. The words that threads wait on are 4 bytes, each on a cache line of its own.
POOL_JOBS, POOL_ARRIVED, POOL_GENERATION, POOL_IDLE_SLEEPERS, POOL_BARRIER_SLEEPERS, POOL_STOP = (
    0,
    64,
    128,
    192,
    256,
    320,
)
POOL_THREADS, POOL_SPIN_IDLE, POOL_SPIN_BARRIER, POOL_JOB, POOL_SIGNALS, POOL_GONE = 384, 392, 400, 408, 416, 424
POOL_PATIENCE, POOL_OWNED, POOL_STARTED, POOL_WORKERS = 448, 512, 520, 576
POOL_WAITS = POOL_PATIENCE + 8
LEAST_SPIN = 20  # rounds
WORKER_BYTES = 32  # pool, index of the thread, its handle
STACK_BYTES = 8 << 20  # as a main thread has: compiled code keeps local arrays on the stack
TURN_NS = 50_000_000  # how long a caller waits for its turn before it lets Python look at signals

POOL_BODY = f"""
declare i32 @pthread_create(ptr, ptr, ptr, ptr)
declare i32 @pthread_join(ptr, ptr)
declare i32 @pthread_attr_init(ptr)
declare i32 @pthread_attr_setstacksize(ptr, i64)
declare i32 @pthread_attr_destroy(ptr)
declare i32 @pthread_sigmask(i32, ptr, ptr)

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

; Starts the workers, with the signals of POOL_SIGNALS blocked: those go to Python's threads, so that Ctrl-C is seen by
; the one that waits for it. Gives 0, or an errno below the number of threads that there would be, in the upper half;
; then none is left.
define internal i64 @start(ptr %pool) {{
  %attributes = alloca [16 x i64] ; pthread_attr_t: 56 bytes on x86-64, 64 on AArch64
  %blocked = alloca [16 x i64] ; sigset_t
  %before = alloca [16 x i64]
  call void @llvm.memset.p0.i64(ptr %blocked, i8 0, i64 128, i1 false)
  %signals.at = getelementptr i8, ptr %pool, i64 {POOL_SIGNALS}
  %signals = load i64, ptr %signals.at
  store i64 %signals, ptr %blocked
  %threads.at = getelementptr i8, ptr %pool, i64 {POOL_THREADS}
  %threads = load i64, ptr %threads.at
  %ignored.init = call i32 @pthread_attr_init(ptr %attributes)
  %ignored.stack = call i32 @pthread_attr_setstacksize(ptr %attributes, i64 {STACK_BYTES})
  %ignored.mask = call i32 @pthread_sigmask(i32 0, ptr %blocked, ptr %before)
  br label %head
head:
  %index = phi i64 [ 1, %0 ], [ %index.next, %created ]
  %more = icmp slt i64 %index, %threads
  br i1 %more, label %create, label %all
create:
  %offset = mul i64 %index, {WORKER_BYTES}
  %place = add i64 %offset, {POOL_WORKERS}
  %worker = getelementptr i8, ptr %pool, i64 %place
  %handle = getelementptr i8, ptr %worker, i64 16
  %error = call i32 @pthread_create(ptr %handle, ptr %attributes, ptr @mapsto_worker, ptr %worker)
  %created.one = icmp eq i32 %error, 0
  br i1 %created.one, label %created, label %refused
created:
  %index.next = add i64 %index, 1
  br label %head
all:
  %started.at = getelementptr i8, ptr %pool, i64 {POOL_STARTED}
  store i64 1, ptr %started.at
  br label %out
refused:
  call void @end(ptr %pool, i64 %index)
  %granted = shl i64 %index, 32
  %error.wide = zext i32 %error to i64
  %told = or i64 %granted, %error.wide
  br label %out
out:
  %result = phi i64 [ 0, %all ], [ %told, %refused ]
  %ignored.restore = call i32 @pthread_sigmask(i32 2, ptr %before, ptr null)
  %ignored.destroy = call i32 @pthread_attr_destroy(ptr %attributes)
  ret i64 %result
}}
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)

; ends the idle workers below `count` and waits for them; the pool is then as it was before they started
define internal void @end(ptr %pool, i64 %count) {{
  %jobs = getelementptr i8, ptr %pool, i64 {POOL_JOBS}
  %idle = getelementptr i8, ptr %pool, i64 {POOL_IDLE_SLEEPERS}
  %stop.at = getelementptr i8, ptr %pool, i64 {POOL_STOP}
  %started.at = getelementptr i8, ptr %pool, i64 {POOL_STARTED}
  store atomic i32 1, ptr %stop.at release, align 4
  call void @advance(ptr %jobs, ptr %idle)
  br label %head
head:
  %index = phi i64 [ 1, %0 ], [ %index.next, %join ]
  %more = icmp slt i64 %index, %count
  br i1 %more, label %join, label %out
join:
  %offset = mul i64 %index, {WORKER_BYTES}
  %place = add i64 %offset, {POOL_WORKERS + 16}
  %handle.at = getelementptr i8, ptr %pool, i64 %place
  %handle = load ptr, ptr %handle.at
  %ignored = call i32 @pthread_join(ptr %handle, ptr null)
  %index.next = add i64 %index, 1
  br label %head
out:
  store atomic i32 0, ptr %stop.at release, align 4
  store atomic i32 0, ptr %jobs release, align 4
  store i64 0, ptr %started.at
  ret void
}}

define i64 @mapsto_stop(ptr %pool) {{
  %mine = call i1 @own(ptr %pool)
  br i1 %mine, label %look, label %busy
look:
  %started.at = getelementptr i8, ptr %pool, i64 {POOL_STARTED}
  %started = load i64, ptr %started.at
  %none = icmp eq i64 %started, 0
  br i1 %none, label %out, label %end
end:
  %threads.at = getelementptr i8, ptr %pool, i64 {POOL_THREADS}
  %threads = load i64, ptr %threads.at
  call void @end(ptr %pool, i64 %threads)
  br label %out
out:
  call void @disown(ptr %pool)
  ret i64 0
busy:
  ret i64 -1
}}

; takes the pool for the caller; false where its turn has not come within a while, or a signal arrived
define internal i1 @own(ptr %pool) {{
  %time = alloca [2 x i64]
  %word = getelementptr i8, ptr %pool, i64 {POOL_OWNED}
  %pair = cmpxchg ptr %word, i32 0, i32 1 acquire monotonic
  %free = extractvalue {{ i32, i1 }} %pair, 1
  br i1 %free, label %got, label %queue
queue:
  %nanos = getelementptr i64, ptr %time, i64 1
  store i64 0, ptr %time
  store i64 {TURN_NS}, ptr %nanos
  %was = atomicrmw xchg ptr %word, i32 2 acquire, align 4
  %left = icmp eq i32 %was, 0
  br i1 %left, label %got, label %wait
wait:
  %woken = call i64 (i64, ...) @syscall(i64 @FUTEX@, ptr %word, i64 128, i64 2, ptr %time, ptr null, i64 0)
  %was.later = atomicrmw xchg ptr %word, i32 2 acquire, align 4
  %left.later = icmp eq i32 %was.later, 0
  br i1 %left.later, label %got, label %again
again:
  %by.owner = icmp eq i64 %woken, 0
  br i1 %by.owner, label %wait, label %lost
got:
  ret i1 true
lost:
  ret i1 false
}}

define internal void @disown(ptr %pool) {{
  %word = getelementptr i8, ptr %pool, i64 {POOL_OWNED}
  %was = atomicrmw xchg ptr %word, i32 0 release, align 4
  %awaited = icmp eq i32 %was, 2
  br i1 %awaited, label %wake, label %out
wake:
  %woken = call i64 (i64, ...) @syscall(i64 @FUTEX@, ptr %word, i64 129, i64 1, ptr null, ptr null, i64 0)
  br label %out
out:
  ret void
}}

; all threads of the pool wait here for each other; gives a number for this meeting (the generation that it opens, in
; the lower half)
define internal i64 @meet(ptr %pool) {{
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
  %twice = shl i64 %patience, 1
  %double = select i1 %tries, i64 %most, i64 %twice
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
  %opened = add i32 %seen, 1
  %opened.wide = zext i32 %opened to i64
  %meeting = or i64 %opened.wide, {1 << 32}
  ret i64 %meeting
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
