// CUDA on the CPU, as far as the kernels of this project need it: each thread of a block is a fiber, blocks run one after
// another. Copies to shared memory arrive as late as they may, and memory under way holds no numbers.
#pragma once
#include <immintrin.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#define EMULATED
#define __global__
#define __device__
#define __shared__ static
#define __align__(n) alignas(n)
#define __launch_bounds__(...)
#define DYNAMIC_SHARED(type, name) type *name = (type *)emulated::dynamic_shared
using std::max;
using std::min;
struct float2 { float x, y; };
struct alignas(16) int4 { int x, y, z, w; };
inline float2 make_float2(float x, float y) { return {x, y}; }
struct Index { unsigned x, y, z; };
inline Index threadIdx, blockIdx, blockDim, gridDim;

namespace emulated {
alignas(16) inline unsigned char dynamic_shared[256 * 1024];
enum { WARP = 32, STACK = 128 * 1024 };

// What a lane brings to an operation of its warp. Two sets in turn: all have read one before anybody writes it again.
struct Lane { const void *address; float c[4]; unsigned a[4], b[2]; float x; };
struct Copy { void *to; const void *from; bool any; };
struct Thread {
    ucontext_t context;
    std::unique_ptr<char[]> stack;
    bool done;
    unsigned waited, met;              // barriers of the block and of the warp that it came to
    std::vector<std::vector<Copy>> groups;
};
struct Warp { unsigned arrived; Lane lanes[2][WARP]; };

inline ucontext_t scheduler;
inline std::vector<Thread> threads;
inline std::vector<Warp> warps;
inline unsigned current, arrived;
inline int either[2];
inline std::function<void()> body;

inline void yield() {
    Index index = threadIdx;
    unsigned mine = current;
    swapcontext(&threads[mine].context, &scheduler);
    threadIdx = index, current = mine;
}
inline void start() {
    body();
    threads[current].done = true;
    swapcontext(&threads[current].context, &scheduler);
}

// Run one kernel over a grid.
inline void launch(Index grid, unsigned block, const std::function<void()> &kernel) {
    body = kernel, gridDim = grid, blockDim = {block, 1, 1};
    threads = std::vector<Thread>(block);
    for (Thread &thread : threads) thread.stack.reset(new char[STACK]);
    for (blockIdx.z = 0; blockIdx.z < grid.z; blockIdx.z++)
        for (blockIdx.y = 0; blockIdx.y < grid.y; blockIdx.y++)
            for (blockIdx.x = 0; blockIdx.x < grid.x; blockIdx.x++) {
                warps.assign((block + WARP - 1) / WARP, Warp{});
                arrived = 0, either[0] = either[1] = 0;
                std::memset(dynamic_shared, 0xff, sizeof dynamic_shared);
                for (unsigned i = 0; i < block; i++) {
                    Thread &thread = threads[i];
                    thread.done = false, thread.waited = thread.met = 0, thread.groups.assign(1, {});
                    getcontext(&thread.context);
                    thread.context.uc_stack.ss_sp = thread.stack.get(), thread.context.uc_stack.ss_size = STACK;
                    thread.context.uc_link = &scheduler;
                    makecontext(&thread.context, start, 0);
                }
                for (unsigned left = block, idle = 0; left > 0; idle++) {
                    left = 0;
                    for (unsigned i = 0; i < block; i++) {
                        if (threads[i].done) continue;
                        current = i, threadIdx = {i, 0, 0};
                        swapcontext(&scheduler, &threads[i].context);
                        left += !threads[i].done;
                    }
                    if (idle > 10000000) std::fprintf(stderr, "threads wait for each other\n"), std::abort();
                }
            }
}

// A barrier of the block; threads that ended are no longer waited for.
inline void block_barrier() {
    unsigned number = ++threads[current].waited;
    arrived++;
    for (;;) {
        unsigned there = 0;
        for (const Thread &thread : threads) there += thread.done || thread.waited >= number;
        if (there == threads.size()) return;
        yield();
    }
}

// All lanes of a warp show what they bring.
inline const Lane *together(const Lane &mine) {
    Warp &warp = warps[current / WARP];
    unsigned number = threads[current].met++;
    warp.lanes[number % 2][current % WARP] = mine;
    warp.arrived++;
    while (warp.arrived < (number + 1) * WARP) yield();
    return warp.lanes[number % 2];
}
}  // namespace emulated

inline void __syncthreads() { emulated::block_barrier(); }
inline int __syncthreads_or(int mine) {
    using namespace emulated;
    unsigned which = threads[current].waited % 2;
    block_barrier();
    either[which] |= mine;
    block_barrier();
    int all = either[which];
    block_barrier();
    either[which] = 0;
    return all;
}
inline void __threadfence() {}
inline unsigned atomicOr(unsigned *at, unsigned x) { unsigned old = *at; *at |= x; return old; }
inline unsigned atomicExch(unsigned *at, unsigned x) { unsigned old = *at; *at = x; return old; }
inline unsigned atomicInc(unsigned *at, unsigned most) { unsigned old = *at; *at = old >= most ? 0 : old + 1; return old; }
inline float __uint_as_float(unsigned x) { float y; std::memcpy(&y, &x, 4); return y; }
inline unsigned __float_as_uint(float x) { unsigned y; std::memcpy(&y, &x, 4); return y; }
using std::isfinite;
inline float __shfl_xor_sync(unsigned, float x, int other) {
    emulated::Lane mine{};
    mine.x = x;
    return emulated::together(mine)[(threadIdx.x % 32) ^ other].x;
}

inline void copy_chunk(void *to, const void *from, bool any) {
    emulated::threads[emulated::current].groups.back().push_back({to, from, any});
    std::memset(to, 0xff, 16);
}
inline void copies_close() { emulated::threads[emulated::current].groups.emplace_back(); }
inline void copy_chunk_near(void *to, const void *from, bool any) { copy_chunk(to, from, any); }
template <int left>
void copies_wait() {
    auto &groups = emulated::threads[emulated::current].groups;
    // The last one is still open.
    while (groups.size() > left + 1) {
        for (const emulated::Copy &copy : groups.front())
            copy.any ? (void)std::memcpy(copy.to, copy.from, 16) : (void)std::memset(copy.to, 0, 16);
        groups.erase(groups.begin());
    }
}

inline void matrices(unsigned *r, const void *row, int count, bool turned) {
    emulated::Lane mine{};
    mine.address = row;
    const emulated::Lane *lanes = emulated::together(mine);
    int lane = threadIdx.x % 32;
    for (int i = 0; i < count; i++) {
        if (!turned) {
            r[i] = ((const unsigned *)lanes[8 * i + lane / 4].address)[lane % 4];
            continue;
        }
        auto half = [&](int line) { return ((const unsigned short *)lanes[8 * i + line].address)[lane / 4]; };
        r[i] = half(lane % 4 * 2) | (unsigned)half(lane % 4 * 2 + 1) << 16;
    }
}
inline void matrices4(unsigned *r, const void *row) { matrices(r, row, 4, false); }
inline void matrices2(unsigned *r, const void *row) { matrices(r, row, 2, false); }
inline void turned4(unsigned *r, const void *row) { matrices(r, row, 4, true); }

inline float half_number(unsigned short bits) { return _cvtsh_ss(bits); }

// c [16, 8] += a [16, k] b [k, 8]; a word is one element of k, or two halves.
template <int PER_WORD, typename Element>
void multiply_words(float *c, const unsigned *a, const unsigned *b, Element element) {
    emulated::Lane mine{};
    std::copy(a, a + 4, mine.a), std::copy(b, b + 2, mine.b);
    const emulated::Lane *lanes = emulated::together(mine);
    int lane = threadIdx.x % 32;
    for (int e = 0; e < 4; e++) {
        int row = lane / 4 + e / 2 * 8, column = lane % 4 * 2 + e % 2;
        double sum = 0;
        for (int word = 0; word < 8; word++) {
            unsigned left = lanes[row % 8 * 4 + word % 4].a[word / 4 * 2 + row / 8];
            unsigned right = lanes[column * 4 + word % 4].b[word / 4];
            for (int part = 0; part < PER_WORD; part++) sum += (double)element(left, part) * element(right, part);
        }
        c[e] += (float)sum;
    }
}
inline void multiply_halves(float *c, const unsigned *a, const unsigned *b) {
    multiply_words<2>(c, a, b, [](unsigned word, int part) { return half_number((unsigned short)(word >> 16 * part)); });
}
inline void multiply_tf32(float *c, const unsigned *a, const unsigned *b) {
    multiply_words<1>(c, a, b, [](unsigned word, int) { return __uint_as_float(word & ~0x1fffu); });
}
inline unsigned round_tf32(unsigned x) { return (x + 0x1000u) & ~0x1fffu; }

#define LOSS_SCALE_MOST 16777216.f
#define LOSS_SCALE_PATIENCE 2000.f
struct Half;
float number(Half x);
void put(Half *at, float x);
