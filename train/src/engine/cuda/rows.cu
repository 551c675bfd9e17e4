// What goes from row to row without a product, and sums over rows.

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
