// Enough of CUDA C to run a kernel on the CPU, each of its threads a thread, its blocks one after the other.
// Slow, and honest about what barriers and ballots mean: a warp that does not meet as a whole hangs.
#include <barrier>
#include <cmath>
#include <memory>
#include <thread>
#include <vector>

using std::exp;

#define __global__
#define __device__ static
#define __shared__ static  // one block at a time

struct dim3 { unsigned x; };
static dim3 blockDim, gridDim, blockIdx;
static thread_local dim3 threadIdx;

const int WARP = 32;
static std::unique_ptr<std::barrier<>> block_barrier;
static std::vector<std::unique_ptr<std::barrier<>>> warp_barrier;
static std::vector<unsigned> said;  // by every thread, in the vote or exchange under way

static void __syncthreads() { block_barrier->arrive_and_wait(); }

static void warp_wait() { warp_barrier[threadIdx.x / WARP]->arrive_and_wait(); }

static unsigned __ballot_sync(unsigned mask, bool vote) {
    unsigned base = threadIdx.x / WARP * WARP, result = 0;
    said[threadIdx.x] = vote;
    warp_wait();
    for (int j = 0; j < WARP; ++j) result |= said[base + j] << j;
    warp_wait();
    return result & mask;
}

template <typename Kernel>
static void simulate(int blocks, int threads, Kernel kernel) {
    gridDim.x = blocks;
    blockDim.x = threads;
    said.assign(threads, 0);
    for (int block = 0; block < blocks; ++block) {
        blockIdx.x = block;
        block_barrier = std::make_unique<std::barrier<>>(threads);
        warp_barrier.clear();
        for (int warp = 0; warp < threads / WARP; ++warp) warp_barrier.push_back(std::make_unique<std::barrier<>>(WARP));
        std::vector<std::thread> running;
        for (int thread = 0; thread < threads; ++thread)
            running.emplace_back([=] {
                threadIdx.x = thread;
                kernel();
                block_barrier->arrive_and_drop();
                warp_barrier[thread / WARP]->arrive_and_drop();
            });
        for (auto &one : running) one.join();
    }
}
