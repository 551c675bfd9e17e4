// Puts the tables of a batch together on the GPU, as `sites::Sites::batch` does on the host.
//
// Maps are numbered from 0, the stem's; stage s turns map s into map s + 1. Row 0 of each map is the background.

struct Stage {
    const unsigned short *taps;     // of all images: [cells * 4, kernel]
    const unsigned short *readers;  // of all images: [sites of the map that comes in, kernel]
    int *taps_out;                  // [rows of map s + 1, times 4, kernel]
    int *readers_out;               // [rows of map s, kernel]
    float *quiet_out;               // [kernel, rows of map s + 1, times 4], or none
};

struct Data {
    int maps, kernel, batch, rows, positions;
    int begin;                      // position of the epoch's order that the rows begin with
    const float *pixels;            // of all images: [sites of the stem, kernel]
    const unsigned short *places;   // of all images: [sites of the last map]
    const float *labels;            // [rows]
    const int *order;               // [rows]: row at each position
    const unsigned *starts[8];      // of each map: first site of each image, [rows + 1]
    Stage stages[7];
    int capacity[8];                // rows of each map
    int *firsts;                    // scratch: first row of each image of the batch, [maps, batch + 1]
    int *images;                    // scratch: row number of each image of the batch or -1, [batch]
    float *pixels_out;              // [rows of map 0, kernel + 1]
    int *places_out;                // [batch * positions]
    int *found_out;                 // [rows of the last map]
    float *absent_out;              // [batch * positions], or none
    float *labels_out, *weights_out, *count_out;
};

// One block: which rows the batch from position `first` on has, and where each image's sites begin.
__device__ void choose_from(const Data &d, int first) {
    __shared__ int sums[1024];
    int share = (d.batch + blockDim.x - 1) / blockDim.x;
    int begin = min(d.batch, (int)threadIdx.x * share), end = min(d.batch, begin + share);
    for (int i = begin; i < end; i++) {
        int position = first + i;
        int image = position < d.rows ? d.order[position] : -1;
        d.images[i] = image;
        d.labels_out[i] = image < 0 ? 0.f : d.labels[image];
        d.weights_out[i] = image < 0 ? 0.f : 1.f;
    }
    if (threadIdx.x == 0) *d.count_out = (float)max(0, min(d.batch, d.rows - first));
    for (int map = 0; map < d.maps; map++) {
        const unsigned *starts = d.starts[map];
        int sum = 0;
        for (int i = begin; i < end; i++) {
            int image = d.images[i];
            if (image >= 0) sum += (int)(starts[image + 1] - starts[image]);
        }
        sums[threadIdx.x] = sum;
        __syncthreads();
        for (int step = 1; step < blockDim.x; step *= 2) {
            int before = threadIdx.x >= step ? sums[threadIdx.x - step] : 0;
            __syncthreads();
            sums[threadIdx.x] += before;
            __syncthreads();
        }
        int row = 1 + sums[threadIdx.x] - sum;
        int *firsts = d.firsts + map * (d.batch + 1);
        for (int i = begin; i < end; i++) {
            firsts[i] = row;
            int image = d.images[i];
            if (image >= 0) row += (int)(starts[image + 1] - starts[image]);
        }
        if (threadIdx.x == blockDim.x - 1) firsts[d.batch] = 1 + sums[threadIdx.x];
        __syncthreads();
    }
}

extern "C" __global__ void choose(const Data *data, int first) { choose_from(*data, first); }

// The same for the batch after number `batch` of the epoch.
extern "C" __global__ void choose_next(const Data *data, const long long *batch) {
    choose_from(*data, (int)(batch[0] + 1) * data->batch - data->begin);
}

__device__ void write_taps(const Data &d, const Stage &stage, int members, int at, int row) {
    int tap = at % d.kernel, member = at / d.kernel;
    stage.taps_out[at] = row;
    if (stage.quiet_out) stage.quiet_out[tap * members + member] = row == 0 ? 1.f : 0.f;
}

// A block for each image, then blocks that fill the rows past the batch's sites.
extern "C" __global__ void pack(const Data *data) {
    const Data &d = *data;
    int k = d.kernel, last = d.maps - 1, all = d.batch * d.positions;
    if (blockIdx.x >= d.batch) {
        int thread = (blockIdx.x - d.batch) * blockDim.x + threadIdx.x;
        int threads = (gridDim.x - d.batch) * blockDim.x;
        // The background's row, and rows that stand nowhere, have empty pixels.
        const int *firsts = d.firsts;
        int empty = d.capacity[0] - firsts[d.batch] + 1;
        for (int i = thread; i < empty * (k + 1); i += threads) {
            int row = i / (k + 1), column = i % (k + 1);
            row = row == 0 ? 0 : firsts[d.batch] + row - 1;
            d.pixels_out[row * (k + 1) + column] = column == k ? 1.f : 0.f;
        }
        for (int s = 0; s < last; s++) {
            const Stage &stage = d.stages[s];
            int members = 4 * d.capacity[s + 1], sites = d.firsts[s * (d.batch + 1) + d.batch];
            int used = 4 * d.firsts[(s + 1) * (d.batch + 1) + d.batch];
            for (int i = thread; i < (members - used + 4) * k; i += threads)
                write_taps(d, stage, members, i < 4 * k ? i : (used - 4) * k + i, 0);
            for (int i = thread; i < (d.capacity[s] - sites + 1) * k; i += threads) {
                if (i < k) stage.readers_out[i] = members + i;
                else stage.readers_out[(sites - 1) * k + i] = members + k;
            }
        }
        int sites = d.firsts[last * (d.batch + 1) + d.batch];
        for (int i = thread; i < d.capacity[last] - sites + 1; i += threads) {
            if (i == 0) d.found_out[0] = all;
            else d.found_out[sites - 1 + i] = all + 1;
        }
        return;
    }
    int slot = blockIdx.x, image = d.images[slot];
    for (int i = threadIdx.x; i < d.positions; i += blockDim.x) {
        d.places_out[slot * d.positions + i] = 0;
        if (d.absent_out) d.absent_out[slot * d.positions + i] = 1.f;
    }
    if (image < 0) return;
    __syncthreads();
    int first = d.firsts[slot];
    unsigned start = d.starts[0][image], count = d.starts[0][image + 1] - start;
    for (int i = threadIdx.x; i < count * (k + 1); i += blockDim.x) {
        int row = i / (k + 1), column = i % (k + 1);
        d.pixels_out[first * (k + 1) + i] = column == k ? 1.f : d.pixels[(size_t)(start + row) * k + column];
    }
    for (int s = 0; s < last; s++) {
        const Stage &stage = d.stages[s];
        int in = d.firsts[s * (d.batch + 1) + slot], out = d.firsts[(s + 1) * (d.batch + 1) + slot];
        int members = 4 * d.capacity[s + 1];
        start = d.starts[s + 1][image], count = d.starts[s + 1][image + 1] - start;
        for (int i = threadIdx.x; i < 4 * count * k; i += blockDim.x) {
            int site = stage.taps[(size_t)start * 4 * k + i];
            write_taps(d, stage, members, 4 * out * k + i, site == 0 ? 0 : in + site - 1);
        }
        start = d.starts[s][image], count = d.starts[s][image + 1] - start;
        for (int i = threadIdx.x; i < count * k; i += blockDim.x) {
            int member = stage.readers[(size_t)start * k + i];
            stage.readers_out[in * k + i] = member == 0 ? members + k : 4 * out + member - 1;
        }
    }
    first = d.firsts[last * (d.batch + 1) + slot];
    start = d.starts[last][image], count = d.starts[last][image + 1] - start;
    for (int i = threadIdx.x; i < count; i += blockDim.x) {
        int at = slot * d.positions + d.places[start + i];
        d.places_out[at] = first + i;
        if (d.absent_out) d.absent_out[at] = 0.f;
        d.found_out[first + i] = at;
    }
}
