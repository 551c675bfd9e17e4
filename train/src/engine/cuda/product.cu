// Products whose rows are gathered on the way, with pool, relu and bias at their end.

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

// The ends of a product. A thread has rows `lane / 4` and 8 more and two columns of each of its tiles of `multiply`; those of its warp
// begin at a cell or row and at `column_0`.

// The pool of cells of four rows, bias and relu.
template <int MT, int NT>
__device__ void put_cells(const Product &p, const float (&sums)[MT][NT][4], int first_cell, int column_0) {
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < MT; i += 2)
#pragma unroll
        for (int j = 0; j < NT; j++) {
            int cell = first_cell + i * 4 + lane / 4, column = column_0 + j * 8 + lane % 4 * 2;
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

template <int GOAL, int MT, int NT>
__device__ void put_rows(const Product &p, const float (&sums)[MT][NT][4], int first_row, int column_0) {
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < MT; i++)
#pragma unroll
        for (int j = 0; j < NT; j++)
#pragma unroll
            for (int under = 0; under < 2; under++) {
                int row = first_row + i * 16 + under * 8 + lane / 4, column = column_0 + j * 8 + lane % 4 * 2;
                const float *pair = sums[i][j] + 2 * under;
                if (row >= p.count) continue;
                if (GOAL == ROWS) {
                    if (column < p.out_stride) put_pair(p.out + (size_t)row * p.out_stride + column, pair[0], pair[1]);
                    continue;
                }
                float *at = p.parts + ((size_t)blockIdx.z * p.count + row) * p.columns + column;
                if (column < p.columns) at[0] = pair[0];
                if (column + 1 < p.columns) at[1] = pair[1];
            }
}

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

    if (GOAL == POOLED) put_cells<MT, NT>(p, sums, blockIdx.x * (BLOCK_ROWS / 4) + warp_m * (WM / 4), column_0 + warp_n * WN);
    else put_rows<GOAL, MT, NT>(p, sums, blockIdx.x * BLOCK_ROWS + warp_m * WM, column_0 + warp_n * WN);
}

#define PRODUCTS(name, goal) \
    extern "C" __global__ void __launch_bounds__(256, 2) name##_16(Product p) { product<16, goal>(p); } \
    extern "C" __global__ void __launch_bounds__(256, 2) name##_32(Product p) { product<32, goal>(p); } \
    extern "C" __global__ void __launch_bounds__(256, 2) name##_64(Product p) { product<64, goal>(p); } \
    extern "C" __global__ void __launch_bounds__(256, 2) name##_128(Product p) { product<128, goal>(p); }
PRODUCTS(product_pooled, POOLED)
PRODUCTS(product_rows, ROWS)
PRODUCTS(product_parts, PARTS)
