// Enough of CUDA C to run a kernel on the CPU: its blocks one after the other, the threads of a block in turns. A turn
// ends where the thread has to meet others. Where these do not all come to the same barrier or vote, a device may hang
// or hear stale votes; here the kernel ends with a message.
#include <ucontext.h>

#include <cmath>
#include <mutex>
#include <string>

using std::exp;

#define __global__
#define __device__ static
#define __shared__ static  // one block at a time

struct dim3 { unsigned x, y; };
static dim3 blockDim, gridDim, blockIdx;

const unsigned WARP = 32, MOST_THREADS = 1024, STACK = 1 << 16;

// With -fsanitize=thread every thread of a block is one to the sanitizer, and only barriers order what they read and
// write: votes and exchanges order nothing, as CUDA has it. What is UNSEEN by it is the simulator's own.
#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
#define UNSEEN __attribute__((no_sanitize("thread"), noinline))
static void *new_fiber() { return __tsan_create_fiber(0); }
static void *this_fiber() { return __tsan_get_current_fiber(); }
static void enter_fiber(void *fiber) { __tsan_switch_to_fiber(fiber, __tsan_switch_to_fiber_no_sync); }
static void before(void *meeting) { __tsan_release(meeting); }
static void after(void *meeting) { __tsan_acquire(meeting); }
#else
#define UNSEEN
static void *new_fiber() { return nullptr; }
static void *this_fiber() { return nullptr; }
static void enter_fiber(void *) {}
static void before(void *) {}
static void after(void *) {}
#endif

enum State { READY, AT_VOTE, AT_BARRIER, ENDED };

struct Thread {
    ucontext_t context;
    void *fiber;
    dim3 index;
    State state;
    int line;  // of the vote or barrier that it is at
    unsigned said;  // there
    unsigned heard[WARP];  // what each lane of its warp said
};

static Thread threads[MOST_THREADS];
static char stacks[MOST_THREADS][STACK];
static Thread *current;
static ucontext_t scheduler;
static void *scheduler_fiber;
static char of_block, of_start, of_end;  // what the sanitizer knows a barrier and the ends of a block by
static void (*kernel_body)(const void *);
static const void *kernel_arguments;

UNSEEN static Thread &self() { return *current; }
UNSEEN static dim3 thread_index() { return current->index; }
#define threadIdx (thread_index())

UNSEEN static void meet(State state, int line, unsigned said) {
    Thread &me = *current;
    me.state = state, me.line = line, me.said = said;
    enter_fiber(scheduler_fiber);
    swapcontext(&me.context, &scheduler);
}

UNSEEN static unsigned heard(unsigned lane) { return self().heard[lane]; }

static void __syncthreads(int line = __builtin_LINE()) {
    before(&of_block);
    meet(AT_BARRIER, line, 0);
    after(&of_block);
}

static unsigned __ballot_sync(unsigned mask, bool vote, int line = __builtin_LINE()) {
    meet(AT_VOTE, line, vote);
    unsigned result = 0;
    for (unsigned lane = 0; lane < WARP; ++lane) result |= heard(lane) << lane;
    return result & mask;
}

static unsigned __shfl_xor_sync(unsigned, unsigned value, unsigned far, int line = __builtin_LINE()) {
    meet(AT_VOTE, line, value);
    return heard(threadIdx.x % WARP ^ far);
}

UNSEEN static void live() {
    after(&of_start);
    kernel_body(kernel_arguments);
    before(&of_end);
    meet(ENDED, 0, 0);
}

UNSEEN static void give_turn(Thread &thread) {
    current = &thread;
    enter_fiber(thread.fiber);
    swapcontext(&scheduler, &thread.context);
}

// Let threads [first, last) go on if all of them are at the same vote or barrier.
UNSEEN static bool release(unsigned first, unsigned last, State state) {
    for (unsigned t = first; t < last; ++t)
        if (threads[t].state != state || threads[t].line != threads[first].line) return false;
    for (unsigned t = first; t < last; ++t) {
        threads[t].state = READY;
        for (unsigned lane = 0; state == AT_VOTE && lane < WARP; ++lane) threads[t].heard[lane] = threads[first + lane].said;
    }
    return true;
}

static std::string where(const Thread &thread) {
    const char *names[] = {"runs", "is at the vote of line ", "is at the barrier of line ", "has ended"};
    bool waits = thread.state == AT_VOTE || thread.state == AT_BARRIER;
    return "thread " + std::to_string(thread.index.x) + " " + names[thread.state] + (waits ? std::to_string(thread.line) : "");
}

// What is wrong, where threads wait for others that never come.
static std::string stuck(unsigned size) {
    for (unsigned t = 0; t < size; ++t) {
        if (threads[t].state == ENDED) continue;
        unsigned first = threads[t].state == AT_VOTE ? t / WARP * WARP : 0;
        unsigned last = threads[t].state == AT_VOTE ? first + WARP : size;
        if (last > size) return where(threads[t]) + ", in a warp of fewer than 32 threads";
        for (unsigned other = first; other < last; ++other)
            if (threads[other].state != threads[t].state || threads[other].line != threads[t].line)
                return where(threads[t]) + ", where " + where(threads[other]);
    }
    return "";
}

UNSEEN static void start(unsigned t) {
    Thread &thread = threads[t];
    getcontext(&thread.context);
    thread.context.uc_stack.ss_sp = stacks[t];
    thread.context.uc_stack.ss_size = STACK;
    makecontext(&thread.context, live, 0);
    if (!thread.fiber) thread.fiber = new_fiber();
    thread.index = {t, 0};
    thread.state = READY;
}

UNSEEN static std::string run_block(unsigned size) {
    for (unsigned t = 0; t < size; ++t) start(t);
    before(&of_start);
    for (bool moved = true; moved;) {
        for (unsigned t = 0; t < size; ++t)
            if (threads[t].state == READY) give_turn(threads[t]);
        moved = release(0, size, AT_BARRIER);
        for (unsigned first = 0; first + WARP <= size; first += WARP) moved |= release(first, first + WARP, AT_VOTE);
    }
    after(&of_end);
    return stuck(size);
}

// Run the kernel; nothing, or what went wrong in which block, to be read until the next one.
template <typename Kernel>
static const char *simulate(dim3 grid, unsigned size, const Kernel &kernel) {
    static std::mutex one_at_a_time;
    static std::string fault;
    std::lock_guard<std::mutex> mine(one_at_a_time);
    gridDim = grid, blockDim = {size, 1};
    kernel_body = [](const void *arguments) { (*(const Kernel *)arguments)(); };
    kernel_arguments = &kernel;
    scheduler_fiber = this_fiber();
    for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y)
        for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x) {
            fault = run_block(size);
            if (!fault.empty()) return fault.c_str();
        }
    return nullptr;
}
