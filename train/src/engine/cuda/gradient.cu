// The flat gradient from its parts, the counters, and the next loss scale.

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
