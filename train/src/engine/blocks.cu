// The network at active sites on tensor cores: products whose rows are gathered on the way, with pool, relu and bias at their
// end, and their gradients. `blocks.rs` says what each block is in the graph. Compiled for one precision at a time.
//
// Matrices have rows of `stride` elements, a multiple of 16 bytes; the elements past the last column are 0.

// PRECISION is one of these: f32 by three products of tf32, tf32, halves.
#define EXACT 0
#define TF32 1
#define HALVES 2
#if PRECISION == HALVES
typedef Half T;
#else
typedef float T;
#endif
enum { E = 16 / sizeof(T) };  // elements of a chunk of 16 bytes

#ifndef EMULATED
#define DYNAMIC_SHARED(type, name) extern __shared__ type name[]

__device__ unsigned shared_address(const void *p) { return (unsigned)__cvta_generic_to_shared(p); }

// Copy 16 bytes, or write as many zeros; done after `copies_wait`. `near`: by way of the cache of the multiprocessor, for rows that
// it reads again, the background's above all: that one row has half of all reads, more than its place in the L2 cache can answer.
__device__ void copy_chunk(void *to, const void *from, bool any) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :: "r"(shared_address(to)), "l"(from), "r"(any ? 16 : 0) : "memory");
}
__device__ void copy_chunk_near(void *to, const void *from, bool any) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 16, %2;"
                 :: "r"(shared_address(to)), "l"(from), "r"(any ? 16 : 0) : "memory");
}
__device__ void copies_close() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Wait until no more than `left` groups of copies are under way.
template <int left>
__device__ void copies_wait() { asm volatile("cp.async.wait_group %0;" :: "n"(left) : "memory"); }

// Four 8x8 matrices of 16-bit elements, or 8x4 of words; a thread names a row, of matrix lane / 8.
__device__ void matrices4(unsigned *r, const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}
__device__ void matrices2(unsigned *r, const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1]) : "r"(shared_address(row)) : "memory");
}
__device__ void turned4(unsigned *r, const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}

// c [16, 8] += a [16, 8 words] b [8 words, 8]
__device__ void multiply_halves(float *c, const unsigned *a, const unsigned *b) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ void multiply_tf32(float *c, const unsigned *a, const unsigned *b) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ unsigned round_tf32(unsigned x) {
    unsigned y;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(__uint_as_float(x)));
    return y;
}
#endif

union __align__(16) Chunk {
    unsigned words[4];
    T elements[E];
};

__device__ void multiply(float *c, const unsigned *a, const unsigned *b) {
#if PRECISION == HALVES
    multiply_halves(c, a, b);
#elif PRECISION == TF32
    multiply_tf32(c, a, b);
#else
    unsigned a_high[4], a_low[4], b_high[2], b_low[2];
    for (int i = 0; i < 4; i++) {
        a_high[i] = round_tf32(a[i]);
        a_low[i] = round_tf32(__float_as_uint(__uint_as_float(a[i]) - __uint_as_float(a_high[i])));
    }
    for (int i = 0; i < 2; i++) {
        b_high[i] = round_tf32(b[i]);
        b_low[i] = round_tf32(__float_as_uint(__uint_as_float(b[i]) - __uint_as_float(b_high[i])));
    }
    multiply_tf32(c, a_low, b_high);
    multiply_tf32(c, a_high, b_low);
    multiply_tf32(c, a_high, b_high);
#endif
}

// Operands of `multiply` as the tensor cores take them.
template <int count>
__device__ void rounded(unsigned *words) {
#if PRECISION == TF32
#pragma unroll
    for (int i = 0; i < count; i++) words[i] = round_tf32(words[i]);
#endif
}

__device__ void put_pair(T *at, float first, float second) {
#if PRECISION == HALVES
    Half pair[2];
    put(pair, first), put(pair + 1, second);
    *(unsigned *)at = pair[0].bits | (unsigned)pair[1].bits << 16;
#else
    *(float2 *)at = make_float2(first, second);
#endif
}

// A chunk as numbers, and back.
__device__ void unpack(const void *at, float *x) {
    Chunk chunk = *(const Chunk *)at;
#pragma unroll
    for (int e = 0; e < E; e++) x[e] = number(chunk.elements[e]);
}
__device__ void pack_chunk(void *at, const float *x) {
    Chunk chunk;
#pragma unroll
    for (int e = 0; e < E; e++) put(chunk.elements + e, x[e]);
    *(Chunk *)at = chunk;
}

// Products ----------------------------------------------------------------------------------------------------------

struct Product {
    const T *rows;           // [limit, stride]: what is gathered
    const T *further;        // [further_rows, stride]: rows `limit` and on; those past them are zeros
    const int *index;        // [count, taps]: the row that each tap reads; none: each its own, one tap
    const T *weights;        // [columns, taps, stride]
    const float *bias;       // pooled: [columns]
    T *out;                  // pooled: [count / 4, out_stride]; rows: [count, out_stride]
    float *parts;            // parts: [splits, count, columns]: the sums over the taps of each split
    unsigned char *choice;   // pooled, [count / 4, out_stride]: the first largest member of a cell, 4 where relu cuts it off
    int count, taps, stride, limit, further_rows, columns, out_stride, taps_per_split;
};

enum { POOLED, ROWS, PARTS };
enum { BLOCK_ROWS = 128, STAGES = 4, STEP = 4 };  // rows of a block, stages of its pipeline, chunks of a row in one

// Each block computes 128 rows and BN columns, eight warps side by side. A pooled block's rows are 32 cells: the four members of a
// cell are the four rows of a thread in two neighbouring tiles of `multiply`, so the pool needs no other thread.
template <int BN, int GOAL>
__device__ void product(const Product &p) {
    constexpr int WARPS_N = BN >= 128 ? 4 : 2, WM = BLOCK_ROWS * WARPS_N / 8, WN = BN / WARPS_N;
    constexpr int MT = WM / 16, NT = WN / 8, STAGE = (BLOCK_ROWS + BN) * STEP;
    DYNAMIC_SHARED(Chunk, tiles);
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warp_m = warp / WARPS_N, warp_n = warp % WARPS_N;
    int column_0 = blockIdx.y * BN;
    int chunks = p.stride / E, steps_per_tap = (chunks + STEP - 1) / STEP;
    int tap = blockIdx.z * p.taps_per_split, last_tap = min(p.taps, tap + p.taps_per_split);
    int steps = (last_tap - tap) * steps_per_tap, step_in_tap = 0;

    // What this thread copies: chunk `mine` of rows `row` and `row + 64` of either tile.
    int mine = threadIdx.x % STEP, row = threadIdx.x / STEP;
    int count_row[2], found[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        int r = row + 64 * i;
        int cell = r / 32 * 8 + r % 8, member = r % 32 / 16 * 2 + r % 16 / 8;
        count_row[i] = blockIdx.x * BLOCK_ROWS + (GOAL == POOLED ? 4 * cell + member : r);
        found[i] = -1;
        if (count_row[i] < p.count && tap < last_tap)
            found[i] = p.index ? p.index[(size_t)count_row[i] * p.taps + tap] : count_row[i];
    }
    auto load = [&](int stage) {
        Chunk *to = tiles + stage * STAGE;
        int chunk = step_in_tap * STEP + mine, place = mine ^ (row >> 1 & 3);
        bool inside = chunk < chunks;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const T *from = p.rows;
            int at = found[i];
            bool any = inside && at >= 0;
            if (at >= p.limit) {
                from = p.further;
                at -= p.limit;
                any = any && at < p.further_rows;
            }
            copy_chunk_near(to + (row + 64 * i) * STEP + place, any ? from + (size_t)at * p.stride + chunk * E : p.rows, any);
        }
#pragma unroll
        for (int i = 0; i < (BN + 63) / 64; i++) {
            int r = row + 64 * i, column = column_0 + r;
            if (BN < 64 && r >= BN) break;
            bool any = inside && column < p.columns;
            const T *from = p.weights + ((size_t)(any ? column : 0) * p.taps + tap) * p.stride + (any ? chunk * E : 0);
            copy_chunk(to + (BLOCK_ROWS + r) * STEP + place, from, any);
        }
        if (++step_in_tap < steps_per_tap) return;
        step_in_tap = 0;
        if (++tap == last_tap || !p.index) return;
        // Asked for here, needed by the next step's copies.
#pragma unroll
        for (int i = 0; i < 2; i++)
            if (found[i] >= 0) found[i] = p.index[(size_t)count_row[i] * p.taps + tap];
    };

    float sums[MT][NT][4] = {};
#pragma unroll
    for (int stage = 0; stage < STAGES - 1; stage++) {
        if (stage < steps) load(stage);
        copies_close();
    }
    for (int step = 0; step < steps; step++) {
        copies_wait<STAGES - 2>();
        __syncthreads();
        if (step + STAGES - 1 < steps) load((step + STAGES - 1) % STAGES);
        copies_close();
        const Chunk *a_tile = tiles + step % STAGES * STAGE + warp_m * WM * STEP;
        const Chunk *b_tile = tiles + step % STAGES * STAGE + (BLOCK_ROWS + warp_n * WN) * STEP;
#pragma unroll
        for (int half = 0; half < 2; half++) {
            unsigned a[MT][4], b[NT * 2];
#pragma unroll
            for (int i = 0; i < MT; i++) {
                int r = i * 16 + lane % 16;
                matrices4(a[i], a_tile + r * STEP + ((2 * half + lane / 16) ^ (r >> 1 & 3)));
                rounded<4>(a[i]);
            }
            if (NT == 1) {
                int r = lane % 8;
                matrices2(b, b_tile + r * STEP + ((2 * half + lane / 8 % 2) ^ (r >> 1 & 3)));
                rounded<2>(b);
            } else {
#pragma unroll
                for (int j = 0; j + 1 < NT; j += 2) {
                    int r = (j + lane / 16) * 8 + lane % 8;
                    matrices4(b + 2 * j, b_tile + r * STEP + ((2 * half + lane / 8 % 2) ^ (r >> 1 & 3)));
                    rounded<4>(b + 2 * j);
                }
            }
#pragma unroll
            for (int i = 0; i < MT; i++)
#pragma unroll
                for (int j = 0; j < NT; j++) multiply(sums[i][j], a[i], b + 2 * j);
        }
    }

    // A thread has rows `r` and `r + 8` and two columns of each tile.
    int r = lane / 4;
    if (GOAL == POOLED) {
#pragma unroll
        for (int i = 0; i < MT; i += 2)
#pragma unroll
            for (int j = 0; j < NT; j++) {
                int cell = blockIdx.x * (BLOCK_ROWS / 4) + warp_m * (WM / 4) + i * 4 + r;
                int column = column_0 + warp_n * WN + j * 8 + lane % 4 * 2;
                if (cell >= p.count / 4 || column >= p.out_stride) continue;
                float most[2];
                int first[2];
#pragma unroll
                for (int c = 0; c < 2; c++) {
                    float member[4] = {sums[i][j][c], sums[i][j][c + 2], sums[i + 1][j][c], sums[i + 1][j][c + 2]};
                    most[c] = member[0], first[c] = 0;
#pragma unroll
                    for (int m = 1; m < 4; m++)
                        if (member[m] > most[c]) most[c] = member[m], first[c] = m;
                    most[c] = activation<T>(most[c] + (column + c < p.columns ? p.bias[column + c] : 0.f));
                    if (!(most[c] > 0.f)) first[c] = 4;
                }
                size_t at = (size_t)cell * p.out_stride + column;
                put_pair(p.out + at, most[0], most[1]);
                *(unsigned short *)(p.choice + at) = first[0] | first[1] << 8;
            }
    }
#pragma unroll
    for (int i = 0; GOAL != POOLED && i < MT; i++)
#pragma unroll
        for (int j = 0; j < NT; j++)
#pragma unroll
            for (int under = 0; under < 2; under++) {
                int to = blockIdx.x * BLOCK_ROWS + warp_m * WM + i * 16 + under * 8 + r;
                int column = column_0 + warp_n * WN + j * 8 + lane % 4 * 2;
                const float *pair = sums[i][j] + 2 * under;
                if (to >= p.count) continue;
                if (GOAL == ROWS) {
                    if (column < p.out_stride) put_pair(p.out + (size_t)to * p.out_stride + column, pair[0], pair[1]);
                    continue;
                }
                float *at = p.parts + ((size_t)blockIdx.z * p.count + to) * p.columns + column;
                if (column < p.columns) at[0] = pair[0];
                if (column + 1 < p.columns) at[1] = pair[1];
            }
}

#define PRODUCTS(name, goal) \
    extern "C" __global__ void __launch_bounds__(256, 2) name##_16(Product p) { product<16, goal>(p); } \
    extern "C" __global__ void __launch_bounds__(256, 2) name##_32(Product p) { product<32, goal>(p); } \
    extern "C" __global__ void __launch_bounds__(256, 2) name##_64(Product p) { product<64, goal>(p); } \
    extern "C" __global__ void __launch_bounds__(256, 2) name##_128(Product p) { product<128, goal>(p); }
PRODUCTS(product_pooled, POOLED)
PRODUCTS(product_rows, ROWS)
PRODUCTS(product_parts, PARTS)

// Kernel gradients --------------------------------------------------------------------------------------------------

struct KernelGrad {
    const T *rows;           // [.., stride]: what the convolution read
    const int *index;        // [members, taps]
    const T *slopes;         // [members, slope_stride]: gradient of what came out
    float *out;              // [splits, taps, inputs, outputs]
    const float *parts;      // [part_count, sum_rows, slope_stride]: sums that blocks of `cell_grad` left
    float *sums;             // [sum_rows, slope_stride]: added up
    T *sums_too;             // the same
    int members, taps, inputs, stride, outputs, slope_stride, members_per_split;
    int part_count, sum_rows, tiles;
};

enum { GRAD_ROWS = 32, GRAD_STAGES = 3 };  // members of a stage

// Where a chunk of a tile's row stands, so that no two threads want the same bank.
template <int CHUNKS>
__device__ int turned_place(int row, int chunk) {
#if PRECISION == HALVES
    return CHUNKS >= 8 ? chunk ^ (row & 7) : chunk ^ (row >> 1 & 3);
#else
    return chunk ^ (row & 3) << 1;
#endif
}

// Add up sums that blocks left: 32 of them by each block of threads, whose warps have a share of those blocks each.
__device__ void add_parts(const KernelGrad &a, int block) {
    __shared__ float shares[8][32];
    int all = a.sum_rows * a.slope_stride, at = block * 32 + threadIdx.x % 32;
    int share = threadIdx.x / 32, share_count = blockDim.x / 32;
    float sum = 0.f;
    if (at < all) {
#pragma unroll 16
        for (int part = share; part < a.part_count; part += share_count) sum += a.parts[(size_t)part * all + at];
    }
    shares[share][threadIdx.x % 32] = sum;
    __syncthreads();
    if (share > 0 || at >= all) return;
    for (int i = 1; i < share_count; i++) sum += shares[i][threadIdx.x];
    a.sums[at] = sum;
    put(a.sums_too + at, sum);
}

// Each block computes SIZE inputs by SIZE outputs of one tap over the members of one split, its warps side by side.
template <int SIZE>
__device__ void kernel_grad(const KernelGrad &a) {
    constexpr int WARPS_N = SIZE >= 128 ? 4 : 2, THREADS = 64 * WARPS_N, W_M = SIZE / 2, W_N = SIZE / WARPS_N;
    constexpr int CHUNKS = SIZE / E, TILE = GRAD_ROWS * CHUNKS, COPIES = TILE / THREADS, MT = W_M / 16, NT = W_N / 8;
    DYNAMIC_SHARED(Chunk, tiles);
    if (blockIdx.x >= a.tiles) {
        if (blockIdx.y == 0) add_parts(a, blockIdx.x - a.tiles);
        return;
    }
    int output_tiles = (a.outputs + SIZE - 1) / SIZE, input_tiles = (a.inputs + SIZE - 1) / SIZE;
    int output_0 = blockIdx.x % output_tiles * SIZE, input_0 = blockIdx.x / output_tiles % input_tiles * SIZE;
    int tap = blockIdx.x / output_tiles / input_tiles;
    int begin = blockIdx.y * a.members_per_split, end = min(a.members, begin + a.members_per_split);
    int steps = (max(0, end - begin) + GRAD_ROWS - 1) / GRAD_ROWS;
    int lane = threadIdx.x % 32, warp_m = threadIdx.x / 32 / WARPS_N, warp_n = threadIdx.x / 32 % WARPS_N;

    // The rows that this thread's copies of the next step come from; -1 past the end.
    int from[COPIES];
    auto ask = [&](int step) {
#pragma unroll
        for (int i = 0; i < COPIES; i++) {
            int member = begin + step * GRAD_ROWS + (i * THREADS + threadIdx.x) / CHUNKS;
            from[i] = member < end ? a.index[(size_t)member * a.taps + tap] : -1;
        }
    };
    auto load = [&](int step) {
        Chunk *x_tile = tiles + step % GRAD_STAGES * 2 * TILE, *d_tile = x_tile + TILE;
#pragma unroll
        for (int i = 0; i < COPIES; i++) {
            int at = i * THREADS + threadIdx.x, row = at / CHUNKS, chunk = at % CHUNKS;
            int member = begin + step * GRAD_ROWS + row, place = row * CHUNKS + turned_place<CHUNKS>(row, chunk);
            int input = input_0 + chunk * E, output = output_0 + chunk * E;
            bool any = from[i] >= 0 && input < a.stride;
            copy_chunk_near(x_tile + place, any ? a.rows + (size_t)from[i] * a.stride + input : a.rows, any);
            any = member < end && output < a.slope_stride;
            copy_chunk(d_tile + place, any ? a.slopes + (size_t)member * a.slope_stride + output : a.slopes, any);
        }
        ask(step + 1);
    };
    ask(0);
    float sums[MT][NT][4] = {};
#pragma unroll
    for (int stage = 0; stage < GRAD_STAGES - 1; stage++) {
        if (stage < steps) load(stage);
        copies_close();
    }
    for (int step = 0; step < steps; step++) {
        copies_wait<GRAD_STAGES - 2>();
        __syncthreads();
        if (step + GRAD_STAGES - 1 < steps) load(step + GRAD_STAGES - 1);
        copies_close();
        const Chunk *x_tile = tiles + step % GRAD_STAGES * 2 * TILE, *d_tile = x_tile + TILE;
        int input = warp_m * W_M, output = warp_n * W_N;
#if PRECISION == HALVES
#pragma unroll
        for (int k = 0; k < GRAD_ROWS; k += 16) {
            unsigned x[MT][4], d[NT * 2];
#pragma unroll
            for (int i = 0; i < MT; i++) {
                int row = k + lane / 16 * 8 + lane % 8, chunk = (input + i * 16) / 8 + lane / 8 % 2;
                turned4(x[i], x_tile + row * CHUNKS + turned_place<CHUNKS>(row, chunk));
            }
#pragma unroll
            for (int j = 0; j < NT; j += 2) {
                int row = k + lane / 8 % 2 * 8 + lane % 8, chunk = output / 8 + j + lane / 16;
                turned4(d + 2 * j, d_tile + row * CHUNKS + turned_place<CHUNKS>(row, chunk));
            }
#else
#pragma unroll
        for (int k = 0; k < GRAD_ROWS; k += 8) {
            unsigned x[MT][4], d[NT * 2];
            auto word = [&](const Chunk *tile, int row, int column) {
                return tile[row * CHUNKS + turned_place<CHUNKS>(row, column / 4)].words[column % 4];
            };
            int row = k + lane % 4, column = lane / 4;
#pragma unroll
            for (int i = 0; i < MT; i++) {
                int first = input + i * 16 + column;
                x[i][0] = word(x_tile, row, first), x[i][1] = word(x_tile, row, first + 8);
                x[i][2] = word(x_tile, row + 4, first), x[i][3] = word(x_tile, row + 4, first + 8);
                rounded<4>(x[i]);
            }
#pragma unroll
            for (int j = 0; j < NT; j++) {
                d[2 * j] = word(d_tile, row, output + j * 8 + column);
                d[2 * j + 1] = word(d_tile, row + 4, output + j * 8 + column);
                rounded<2>(d + 2 * j);
            }
#endif
#pragma unroll
            for (int i = 0; i < MT; i++)
#pragma unroll
                for (int j = 0; j < NT; j++) multiply(sums[i][j], x[i], d + 2 * j);
        }
    }
    float *out = a.out + ((size_t)blockIdx.y * a.taps + tap) * a.inputs * a.outputs;
#pragma unroll
    for (int i = 0; i < MT; i++)
#pragma unroll
        for (int j = 0; j < NT; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                int input = input_0 + warp_m * W_M + i * 16 + e / 2 * 8 + lane / 4;
                int output = output_0 + warp_n * W_N + j * 8 + lane % 4 * 2 + e % 2;
                if (input < a.inputs && output < a.outputs) out[(size_t)input * a.outputs + output] = sums[i][j][e];
            }
}
extern "C" __global__ void __launch_bounds__(128) kernel_grad_32(KernelGrad a) { kernel_grad<32>(a); }
extern "C" __global__ void __launch_bounds__(128) kernel_grad_64(KernelGrad a) { kernel_grad<64>(a); }
extern "C" __global__ void __launch_bounds__(256, 2) kernel_grad_128(KernelGrad a) { kernel_grad<128>(a); }

// What goes from row to row -----------------------------------------------------------------------------------------

enum { MOST_TAPS = 8, SUMMING_THREADS = 256 };

// Sums over the rows that the threads of a block had, for the first `rows` of ROWS kinds and each column: threads that have the
// same chunk of columns add up, in their order. `out` [rows, columns].
template <int ROWS>
__device__ void sums_of_block(const float (&mine)[ROWS][E], int rows, int chunks, float *out, int columns) {
    __shared__ float all[SUMMING_THREADS][E + 1], shares[SUMMING_THREADS];
    int groups = SUMMING_THREADS / chunks, share_count = max(1, SUMMING_THREADS / columns);
#pragma unroll
    for (int row = 0; row < ROWS; row++) {
        if (row >= rows) continue;
#pragma unroll
        for (int e = 0; e < E; e++) all[threadIdx.x][e] = mine[row][e];
        __syncthreads();
        for (int at = threadIdx.x; at < share_count * columns; at += SUMMING_THREADS) {
            int column = at % columns;
            float sum = 0.f;
#pragma unroll 4
            for (int group = at / columns; group < groups; group += share_count)
                sum += all[group * chunks + column / E][column % E];
            if (share_count == 1) out[row * columns + column] = sum;
            else shares[at] = sum;
        }
        __syncthreads();
        if (share_count == 1 || threadIdx.x >= columns) continue;
        float sum = 0.f;
        for (int share = 0; share < share_count; share++) sum += shares[share * columns + threadIdx.x];
        out[row * columns + threadIdx.x] = sum;
    }
}

struct CellGrad {
    const T *d;                    // [cells, stride]: gradient of a pooled map
    const float *first;            // [first_parts, stride]: row 0 of d is the sum of these, if there are any
    const unsigned char *choice;   // [cells, stride]
    const int *index;              // [4 cells, taps]
    T *out;                        // [4 cells, stride]: d at the member that was chosen, else 0
    float *parts;                  // [blocks, taps + 1, stride]: sums over what read the background with each tap, and over all
    int cells, stride, taps, first_parts;
};

extern "C" __global__ void __launch_bounds__(SUMMING_THREADS) cell_grad(CellGrad a) {
    int chunks = a.stride / E, groups = SUMMING_THREADS / chunks, group = threadIdx.x / chunks, chunk = threadIdx.x % chunks;
    float sums[MOST_TAPS][E] = {}, over_all[1][E] = {};
    for (int cell = blockIdx.x * groups + group; group < groups && cell < a.cells; cell += gridDim.x * groups) {
        size_t at = (size_t)cell * a.stride + chunk * E;
        float d[E];
        if (cell == 0 && a.first_parts > 0) {
#pragma unroll
            for (int e = 0; e < E; e++) {
                d[e] = 0.f;
#pragma unroll 16
                for (int part = 0; part < a.first_parts; part++) d[e] += a.first[part * a.stride + chunk * E + e];
            }
        } else {
            unpack(a.d + at, d);
        }
        unsigned char choice[E];
#pragma unroll
        for (int e = 0; e < E; e += 4) *(unsigned *)(choice + e) = *(const unsigned *)(a.choice + at + e);
        // A bit for each member and tap that reads the background: the cell's numbers are `taps` times four.
        unsigned quiet = 0;
#pragma unroll
        for (int i = 0; i < MOST_TAPS; i++) {
            if (i >= a.taps) continue;
            int4 four = ((const int4 *)a.index)[(size_t)cell * a.taps + i];
            quiet |= ((unsigned)(four.x == 0) | (four.y == 0) << 1 | (four.z == 0) << 2 | (unsigned)(four.w == 0) << 3) << 4 * i;
        }
#pragma unroll
        for (int m = 0; m < 4; m++) {
            float x[E];
#pragma unroll
            for (int e = 0; e < E; e++) x[e] = choice[e] == m ? d[e] : 0.f;
            pack_chunk(a.out + ((size_t)4 * cell + m) * a.stride + chunk * E, x);
#pragma unroll
            for (int tap = 0; tap < MOST_TAPS; tap++) {
                if (tap >= a.taps || !(quiet >> (m * a.taps + tap) & 1)) continue;
#pragma unroll
                for (int e = 0; e < E; e++) sums[tap][e] += x[e];
            }
#pragma unroll
            for (int e = 0; e < E; e++) over_all[0][e] += x[e];
        }
    }
    float *out = a.parts + (size_t)blockIdx.x * (a.taps + 1) * a.stride;
    sums_of_block(sums, a.taps, chunks, out, a.stride);
    sums_of_block(over_all, 1, chunks, out + a.taps * a.stride, a.stride);
}

struct Stem {
    const float *pixels;     // [count, taps]: the pixels under the kernel, then 1
    const float *weights;    // [taps, columns], the bias last
    T *out;                  // [count, stride]: relu of their product
    const T *d;              // of the gradient: [count, stride], gradient of `out`
    float *parts;            // of the gradient: [blocks, taps, columns]
    int count, taps, columns, stride;
};

// A thread keeps the weights of a chunk of columns for the rows that it computes.
extern "C" __global__ void __launch_bounds__(SUMMING_THREADS) stem(Stem a) {
    int chunks = a.stride / E, groups = SUMMING_THREADS / chunks, group = threadIdx.x / chunks;
    int column = threadIdx.x % chunks * E;
    float weights[MOST_TAPS + 1][E];
#pragma unroll
    for (int tap = 0; tap <= MOST_TAPS; tap++)
#pragma unroll
        for (int e = 0; e < E; e++)
            weights[tap][e] = tap < a.taps && column + e < a.columns ? a.weights[tap * a.columns + column + e] : 0.f;
    for (int row = blockIdx.x * groups + group; group < groups && row < a.count; row += gridDim.x * groups) {
        float x[E] = {};
#pragma unroll
        for (int tap = 0; tap <= MOST_TAPS; tap++) {
            if (tap >= a.taps) continue;
            float pixel = a.pixels[(size_t)row * a.taps + tap];
#pragma unroll
            for (int e = 0; e < E; e++) x[e] += pixel * weights[tap][e];
        }
#pragma unroll
        for (int e = 0; e < E; e++) x[e] = activation<T>(x[e]);
        pack_chunk(a.out + (size_t)row * a.stride + column, x);
    }
}

extern "C" __global__ void __launch_bounds__(SUMMING_THREADS) stem_grad(Stem a) {
    int chunks = a.stride / E, groups = SUMMING_THREADS / chunks, group = threadIdx.x / chunks, chunk = threadIdx.x % chunks;
    float sums[MOST_TAPS + 1][E] = {};
    for (int row = blockIdx.x * groups + group; group < groups && row < a.count; row += gridDim.x * groups) {
        float d[E], y[E];
        unpack(a.d + (size_t)row * a.stride + chunk * E, d);
        unpack(a.out + (size_t)row * a.stride + chunk * E, y);
#pragma unroll
        for (int tap = 0; tap <= MOST_TAPS; tap++) {
            if (tap >= a.taps) continue;
            float pixel = a.pixels[(size_t)row * a.taps + tap];
#pragma unroll
            for (int e = 0; e < E; e++) sums[tap][e] += y[e] > 0.f ? pixel * d[e] : 0.f;
        }
    }
    sums_of_block(sums, a.taps, chunks, a.parts + (size_t)blockIdx.x * a.taps * a.columns, a.columns);
}

struct PlaceGrad {
    const T *d;              // [places, stride]: gradient of the last map's rows at their places
    const int *found;        // [count]: where each row stands; `places` and more: nowhere
    const int *places;       // [places]: the row at each place, 0 for the background
    T *out;                  // [count, stride]; row 0 is left to `parts`
    float *parts;            // [blocks past row_blocks, stride]: sums over the background's places
    int count, all, stride, row_blocks;
};

extern "C" __global__ void __launch_bounds__(SUMMING_THREADS) place_grad(PlaceGrad a) {
    int chunks = a.stride / E;
    if (blockIdx.x < a.row_blocks) {
        int at = blockIdx.x * SUMMING_THREADS + threadIdx.x, row = at / chunks, chunk = at % chunks;
        if (row >= a.count) return;
        int place = a.found[row];
        Chunk none = {};
        ((Chunk *)a.out)[at] = place < a.all && row > 0 ? *(const Chunk *)(a.d + (size_t)place * a.stride + chunk * E) : none;
        return;
    }
    int block = blockIdx.x - a.row_blocks, blocks = gridDim.x - a.row_blocks;
    int groups = SUMMING_THREADS / chunks, group = threadIdx.x / chunks, chunk = threadIdx.x % chunks;
    float sums[1][E] = {};
    // Four at a time, so that they are under way together.
    for (int first = block * groups + group; group < groups && first < a.all; first += 4 * blocks * groups) {
        bool absent[4];
        float d[4][E];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int place = first + i * blocks * groups;
            absent[i] = place < a.all && a.places[place] == 0;
        }
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (absent[i]) unpack(a.d + (size_t)(first + i * blocks * groups) * a.stride + chunk * E, d[i]);
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int e = 0; e < E; e++) sums[0][e] += absent[i] ? d[i][e] : 0.f;
    }
    sums_of_block(sums, 1, chunks, a.parts + (size_t)block * a.stride, a.stride);
}

// Weights in the order that products read them ----------------------------------------------------------------------

struct PackPart {
    int order, from, to, taps, inputs, outputs, inputs_stride, outputs_stride, length, first_block;
};
enum { FORWARD, BACKWARD, BY_PLACE, TRANSPOSED };
struct Weights {
    const float *params;
    T *packed;               // FORWARD [outputs, taps, inputs_stride], BACKWARD [inputs, taps, outputs_stride],
                             // BY_PLACE [taps, inputs_stride, outputs_stride]
    float *turned;           // TRANSPOSED [outputs, inputs]
    int number;
    PackPart parts[32];
};

// Weights [taps, inputs, outputs] of each part, by blocks of 256 threads.
extern "C" __global__ void pack_weights(Weights a) {
    int number = 0;
    while (number + 1 < a.number && blockIdx.x >= a.parts[number + 1].first_block) number++;
    const PackPart &p = a.parts[number];
    int at = (blockIdx.x - p.first_block) * blockDim.x + threadIdx.x, tap, input, output;
    if (at >= p.length) return;
    if (p.order == FORWARD) {
        input = at % p.inputs_stride, tap = at / p.inputs_stride % p.taps, output = at / p.inputs_stride / p.taps;
    } else if (p.order == BACKWARD) {
        output = at % p.outputs_stride, tap = at / p.outputs_stride % p.taps, input = at / p.outputs_stride / p.taps;
    } else if (p.order == BY_PLACE) {
        output = at % p.outputs_stride, input = at / p.outputs_stride % p.inputs_stride;
        tap = at / p.outputs_stride / p.inputs_stride;
    } else {
        input = at % p.inputs, output = at / p.inputs, tap = 0;
    }
    bool inside = input < p.inputs && output < p.outputs;
    float w = inside ? a.params[p.from + ((size_t)tap * p.inputs + input) * p.outputs + output] : 0.f;
    if (p.order == TRANSPOSED) a.turned[p.to + at] = w;
    else put(a.packed + p.to + at, w);
}

// The dense layers past the first product, and the loss ---------------------------------------------------------------

enum { HEAD_ROWS = 4, HEAD_THREADS = 512, MOST_DENSE = 4 };

struct Head {
    const float *parts;      // [part_count, batch, units of the first layer]: its products, by splits
    const float *params;     // the flat weights
    const float *turned;     // weights of the later layers, transposed
    const float *labels, *weights, *count;
    const long long *step;
    const float *scale;      // of the loss, or none
    float *hidden;           // [batch, columns]: what comes out of the hidden layers, one beside the other
    float *slopes;           // [batch, columns + 1]: gradients of what goes into their relu, and of the logit
    T *first;                // [batch, first_stride]: those of the first layer
    float *rows;             // [batch, 2]: loss, and 1 if right, times the row's weight
    long long keys[9];       // of the dropout masks, see dropout.rs
    int part_count, batch, layers, columns, first_stride;
    int units[MOST_DENSE], bias[MOST_DENSE + 1], weight[MOST_DENSE + 1], transposed[MOST_DENSE + 1];
    float kept;              // factor of what dropout keeps; 0: no dropout
    float smoothing, gamma, alpha, background, main;  // half the label smoothing; of the focal loss; alpha < 0: none
};

__device__ float keep(const Head &a, int row, int column) {
    if (a.kept == 0.f) return 1.f;
    const long long prime = 2147483647;
    long long step = a.step[0], h = (long long)row * a.columns + column + 1;
    for (int round = 0; round < 4; round++) {
        long long base = (h + (step * a.keys[2 * round] + a.keys[2 * round + 1]) % prime) % prime;
        long long second = base * base % prime;
        h = second * second % prime * base % prime;
    }
    return h >= a.keys[8] ? a.kept : 0.f;
}

// sum over i < inner of in[row][i] * weights[i][unit] for the rows of the block; `each` takes row, unit, sum. Groups of threads have
// a share of the terms each, which `shares` [groups, HEAD_ROWS, units] holds until they are added up.
template <typename Each>
__device__ void rows_times(
    const float *in, int in_stride, const float *weights, int inner, int units, float *shares, Each each) {
    int groups = max(1, HEAD_THREADS / units);
    for (int at = threadIdx.x; at < groups * units; at += HEAD_THREADS) {
        int unit = at % units, group = at / units;
        float sums[HEAD_ROWS] = {};
#pragma unroll 16
        for (int i = group; i < inner; i += groups) {
            float w = weights[(size_t)i * units + unit];
#pragma unroll
            for (int row = 0; row < HEAD_ROWS; row++) sums[row] += in[row * in_stride + i] * w;
        }
#pragma unroll
        for (int row = 0; row < HEAD_ROWS; row++) shares[(group * HEAD_ROWS + row) * units + unit] = sums[row];
    }
    __syncthreads();
    for (int at = threadIdx.x; at < HEAD_ROWS * units; at += HEAD_THREADS) {
        float sum = 0.f;
#pragma unroll 4
        for (int group = 0; group < groups; group++) sum += shares[group * HEAD_ROWS * units + at];
        each(at / units, at % units, sum);
    }
    __syncthreads();
}

__device__ float sigmoid(float z) { return 1.f / (1.f + expf(-z)); }

// Loss of a logit, and its slope: see loss.rs.
__device__ float loss_of(const Head &a, float z, float label, float &slope) {
    float target = label * (1.f - 2.f * a.smoothing) + a.smoothing;
    float loss = softplus(z) - target * z;
    slope = sigmoid(z) - target;
    if (a.gamma > 0.f) {
        float sign = label > 0.5f ? 1.f : -1.f, s = sign * z;
        float log_miss = -softplus(s), its_slope = -sigmoid(s);
        if (a.smoothing > 0.f) {
            float shift = logf(a.smoothing / (1.f - a.smoothing));
            log_miss += softplus(s + shift) + logf(1.f - a.smoothing);
            its_slope += sigmoid(s + shift);
        }
        float power = expf(a.gamma * log_miss);
        slope = power * (slope + loss * a.gamma * sign * its_slope);
        loss *= power;
    }
    float factor = a.background + (a.main - a.background) * label;
    if (a.alpha >= 0.f) factor *= (1.f - a.alpha) + (2.f * a.alpha - 1.f) * target;
    slope *= factor;
    return loss * factor;
}

extern "C" __global__ void __launch_bounds__(HEAD_THREADS) head(Head a) {
    DYNAMIC_SHARED(float, shared);
    float *h = shared, *d = h + HEAD_ROWS * a.columns;  // [HEAD_ROWS, columns], [HEAD_ROWS, columns + 1]
    float *shares = d + HEAD_ROWS * (a.columns + 1);    // as `rows_times` needs it
    int d_stride = a.columns + 1, row_0 = blockIdx.x * HEAD_ROWS, units = a.units[0];
    int all = HEAD_ROWS * units, groups = max(1, HEAD_THREADS / all);
    for (int at = threadIdx.x; at < groups * all; at += HEAD_THREADS) {
        int row = at % all / units, unit = at % units;
        float sum = 0.f;
        if (row_0 + row < a.batch) {
#pragma unroll 16
            for (int part = at / all; part < a.part_count; part += groups)
                sum += a.parts[((size_t)part * a.batch + row_0 + row) * units + unit];
        }
        shares[at] = sum;
    }
    __syncthreads();
    for (int at = threadIdx.x; at < all; at += HEAD_THREADS) {
        int row = at / units, unit = at % units;
        float z = a.params[a.bias[0] + unit];
        for (int group = 0; group < groups; group++) z += shares[group * all + at];
        h[row * a.columns + unit] = row_0 + row < a.batch ? fmaxf(z, 0.f) * keep(a, row_0 + row, unit) : 0.f;
    }
    __syncthreads();
    int start = 0;
    for (int layer = 1; layer < a.layers; layer++) {
        int next = start + units;
        auto forward = [&](int row, int unit, float sum) {
            float z = fmaxf(sum + a.params[a.bias[layer] + unit], 0.f);
            h[row * a.columns + next + unit] = z * keep(a, row_0 + row, next + unit);
        };
        rows_times(h + start, a.columns, a.params + a.weight[layer], units, a.units[layer], shares, forward);
        start = next, units = a.units[layer];
    }
    int lane = threadIdx.x % 32, row = threadIdx.x / 32;
    const float *last = a.params + a.weight[a.layers];
    if (row < HEAD_ROWS) {
        float z = 0.f;
        for (int unit = lane; unit < units; unit += 32) z += h[row * a.columns + start + unit] * last[unit];
        for (int other = 16; other > 0; other /= 2) z += __shfl_xor_sync(0xffffffffu, z, other);
        if (lane == 0) {
            int at = row_0 + row;
            float slope = 0.f;
            if (at < a.batch) {
                z += a.params[a.bias[a.layers]];
                float loss = loss_of(a, z, a.labels[at], slope);
                slope *= a.weights[at] / a.count[0] * (a.scale ? a.scale[0] : 1.f);
                a.rows[2 * at] = loss * a.weights[at];
                a.rows[2 * at + 1] = ((z >= 0.f) == (a.labels[at] > 0.5f)) ? a.weights[at] : 0.f;
            }
            d[row * d_stride + a.columns] = slope;
        }
    }
    __syncthreads();
    // Back: what a unit gets from the layer after it, through dropout and relu.
    int after = a.columns, after_units = 1;
    float kept = a.kept == 0.f ? 1.f : a.kept;
    for (int layer = a.layers - 1; layer >= 0; layer--) {
        const float *weights = layer + 1 == a.layers ? last : a.turned + a.transposed[layer + 1];
        int from = after - a.units[layer];
        auto back = [&](int row, int unit, float sum) {
            d[row * d_stride + from + unit] = h[row * a.columns + from + unit] > 0.f ? sum * kept : 0.f;
        };
        rows_times(d + after, d_stride, weights, after_units, a.units[layer], shares, back);
        after = from, after_units = a.units[layer];
    }
    for (int at = threadIdx.x; at < HEAD_ROWS * d_stride; at += HEAD_THREADS) {
        int row = at / d_stride, column = at % d_stride;
        if (row_0 + row >= a.batch) continue;
        a.slopes[(size_t)(row_0 + row) * d_stride + column] = d[at];
        if (column < a.columns) a.hidden[(size_t)(row_0 + row) * a.columns + column] = h[row * a.columns + column];
    }
    for (int at = threadIdx.x; at < HEAD_ROWS * a.first_stride; at += HEAD_THREADS) {
        int row = at / a.first_stride, unit = at % a.first_stride;
        if (row_0 + row < a.batch)
            put(a.first + (size_t)(row_0 + row) * a.first_stride + unit, unit < a.units[0] ? d[row * d_stride + unit] : 0.f);
    }
}

// The flat gradient -------------------------------------------------------------------------------------------------

enum { SPLITS, OUTER, COLUMNS, FEW_SPLITS };
struct GradientPart {
    const float *from;       // SPLITS and FEW_SPLITS [count, length]; OUTER and COLUMNS [count, stride]
    const float *with;       // OUTER [count, with_stride]
    int how, start, length, count, stride, with_stride, inner, first_block;
};
struct Gradient {
    float *out;              // [P]
    const float *scale;      // state of the loss scale [3], or none
    float *scale_next;
    const long long *step, *batch;
    const float *sums, *rows;
    long long *step_next, *batch_next;
    float *sums_next;        // [2]: sums plus those over `rows` [row_count, 2]
    int row_count, number;
    GradientPart parts[28];
};

// Of `gradient`, as `broken` and `blocks_done` are of `unscale`.
__device__ unsigned gradient_broken, gradient_done;

// By one block: the counters, and the sums of the epoch.
__device__ void count_step(const Gradient &a) {
    __shared__ float rows[2][128];
    int which = threadIdx.x / 128, first = threadIdx.x % 128;
    float all = 0.f;
    for (int i = first; i < a.row_count; i += 128) all += a.rows[2 * i + which];
    rows[which][first] = all;
    __syncthreads();
    for (int half = 64; half > 0; half /= 2) {
        if (first < half) rows[which][first] += rows[which][first + half];
        __syncthreads();
    }
    if (first == 0) a.sums_next[which] = a.sums[which] + rows[which][0];
    if (threadIdx.x == 0) a.step_next[0] = a.step[0] + 1, a.batch_next[0] = a.batch[0] + 1;
}

// By all blocks: the last one knows whether the whole gradient is finite.
__device__ void close_step(const Gradient &a, bool finite) {
    int any = __syncthreads_or(!finite);
    if (threadIdx.x != 0) return;
    if (any) atomicOr(&gradient_broken, 1u);
    __threadfence();
    if (atomicInc(&gradient_done, gridDim.x - 1) != gridDim.x - 1) return;
    next_scale(a.scale, a.scale_next, atomicExch(&gradient_broken, 0u) == 0);
}

// 64 elements a block, a quarter of the sum each thread; of FEW_SPLITS 1024, four whole sums each thread.
extern "C" __global__ void __launch_bounds__(256) gradient(Gradient a) {
    __shared__ float quarters[4][64];
    int number = 0;
    while (number + 1 < a.number && blockIdx.x >= a.parts[number + 1].first_block) number++;
    const GradientPart &p = a.parts[number];
    bool finite = true;
    if (p.how == FEW_SPLITS) {
        int first = (blockIdx.x - p.first_block) * 1024 + threadIdx.x;
        float sums[4] = {}, scale = a.scale ? a.scale[0] : 1.f;
#pragma unroll 4
        for (int i = 0; i < p.count; i++)
#pragma unroll
            for (int k = 0; k < 4; k++)
                if (first + k * 256 < p.length) sums[k] += p.from[(size_t)i * p.length + first + k * 256];
#pragma unroll
        for (int k = 0; k < 4; k++)
            if (first + k * 256 < p.length) {
                a.out[p.start + first + k * 256] = sums[k] / scale;
                finite = finite && isfinite(sums[k]);
            }
        if (blockIdx.x == 0) count_step(a);
        if (a.scale) close_step(a, finite);
        return;
    }
    int at = (blockIdx.x - p.first_block) * 64 + threadIdx.x % 64, quarter = threadIdx.x / 64;
    bool inside = at < p.length;
    float sum = 0.f;
    if (inside && p.how == SPLITS) {
#pragma unroll 8
        for (int i = quarter; i < p.count; i += 4) sum += p.from[(size_t)i * p.length + at];
    } else if (inside && p.how == OUTER) {
        const float *left = p.from + at / p.inner, *right = p.with + at % p.inner;
#pragma unroll 8
        for (int i = quarter; i < p.count; i += 4) sum += left[(size_t)i * p.stride] * right[(size_t)i * p.with_stride];
    } else if (inside) {
#pragma unroll 8
        for (int i = quarter; i < p.count; i += 4) sum += p.from[(size_t)i * p.stride + at];
    }
    quarters[quarter][threadIdx.x % 64] = sum;
    __syncthreads();
    if (blockIdx.x == 0) count_step(a);
    if (inside && quarter == 0) {
        for (int i = 1; i < 4; i++) sum += quarters[i][threadIdx.x];
        a.out[p.start + at] = a.scale ? sum / a.scale[0] : sum;
        finite = isfinite(sum);
    }
    if (a.scale) close_step(a, finite);
}
