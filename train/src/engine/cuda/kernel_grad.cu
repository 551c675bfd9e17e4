// Gradients of kernels: products over the members that a tap reads, by shares of the members.

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
