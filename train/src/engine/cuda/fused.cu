// Operators of the training step that take several of ONNX Runtime's: see `fused.rs` for what each computes.

struct Args {
    const void *in[6];
    void *out[3];
    int rows, columns;  // of the first output
};

// A 16-bit float, in memory only: NVRTC has no cuda_fp16.h beside it.
struct Half {
    unsigned short bits;
};

__device__ float number(float x) { return x; }
__device__ void put(float *at, float x) { *at = x; }
#ifndef EMULATED
__device__ float number(Half x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
}
__device__ void put(Half *at, float x) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(at->bits) : "f"(x)); }
#endif

template <typename T>
__device__ const T *in(const Args &a, int number) {
    return (const T *)a.in[number];
}
template <typename T>
__device__ T *out(const Args &a, int number) {
    return (T *)a.out[number];
}

// The largest activation: see MOST_HALF in graph/lower/standard.rs.
template <typename T>
__device__ float activation(float x) { return fmaxf(x, 0.f); }
template <>
__device__ float activation<Half>(float x) { return fminf(fmaxf(x, 0.f), 32768.f); }

// A kernel for 32-bit floats, and one for halves.
#define OF_FLOATS(name) \
    extern "C" __global__ void name(Args a) { name##_of<float>(a); } \
    extern "C" __global__ void name##_f16(Args a) { name##_of<Half>(a); }

#define EACH(count) \
    int i = blockIdx.x * blockDim.x + threadIdx.x; \
    if (i >= (count)) return;

// x [4 rows, columns], b [columns]: relu(max of each four rows + b), as an activation
template <typename T>
__device__ void cell_pool_of(Args a) {
    EACH(a.rows * a.columns)
    int c = a.columns, row = i / c, column = i % c;
    const T *x = in<T>(a, 0) + (size_t)4 * row * c + column;
    float most = fmaxf(fmaxf(number(x[0]), number(x[c])), fmaxf(number(x[2 * c]), number(x[3 * c])));
    put(out<T>(a, 0) + i, activation<T>(most + number(in<T>(a, 1)[column])));
}
OF_FLOATS(cell_pool)

// d [rows / 4, columns], x [rows, columns]: d at the first largest of each four rows, else 0
template <typename T>
__device__ void cell_max_grad_of(Args a) {
    EACH(a.rows / 4 * a.columns)
    int c = a.columns;
    size_t at = (size_t)(i / c) * 4 * c + i % c;
    const T *x = in<T>(a, 1) + at;
    int first = 0;
    float most = number(x[0]);
    for (int member = 1; member < 4; member++)
        if (number(x[member * c]) > most) most = number(x[member * c]), first = member;
    float d = number(in<T>(a, 0)[i]);
    for (int member = 0; member < 4; member++) put(out<T>(a, 0) + at + member * c, member == first ? d : 0.f);
}
OF_FLOATS(cell_max_grad)

// dy, y: dy where y > 0, else 0
template <typename T>
__device__ void relu_grad_of(Args a) {
    EACH(a.rows * a.columns)
    put(out<T>(a, 0) + i, number(in<T>(a, 1)[i]) > 0.f ? number(in<T>(a, 0)[i]) : 0.f);
}
OF_FLOATS(relu_grad)

__device__ void adam_where(const Args &a, bool taken) {
    EACH(a.rows * a.columns)
    float p = in<float>(a, 0)[i], m = in<float>(a, 1)[i], v = in<float>(a, 2)[i], g = in<float>(a, 3)[i];
    if (taken) {
        m += (g - m) * 0.1f;
        v += (g * g - v) * 0.001f;
        p -= m * in<float>(a, 4)[0] / (sqrtf(v) + 1e-7f);
    }
    out<float>(a, 0)[i] = p;
    out<float>(a, 1)[i] = m;
    out<float>(a, 2)[i] = v;
}

// params, m, v, gradient [P], rate [1]: params, m, v after Adam's step
extern "C" __global__ void adam(Args a) { adam_where(a, true); }

// the same and the next state of the loss scale [3]: what they are if the step is not taken
extern "C" __global__ void adam_scaled(Args a) { adam_where(a, in<float>(a, 5)[2] > 0.f); }

// State of the loss scale [3] after a step whose gradient is finite or not (see scale.rs).
__device__ void next_scale(const float *now, float *next, bool finite) {
    float scale = now[0], good = now[1] + 1.f;
    bool full = good >= LOSS_SCALE_PATIENCE;
    if (finite) next[0] = full && scale <= LOSS_SCALE_MOST / 2 ? 2 * scale : scale;
    else next[0] = scale <= 1.f ? scale : scale / 2;
    next[1] = finite && !full ? good : 0.f;
    next[2] = finite || scale <= 1.f ? 1.f : 0.f;
}

// Of `unscale`: whether a block found what is not finite, and how many blocks are done. Steps of a training follow each other
// on one stream, and each training has these of its own; the last block leaves both at 0.
__device__ unsigned broken, blocks_done;

// gradient [P] in halves, state of the loss scale [3]: the gradient without the scale; the next state
extern "C" __global__ void unscale(Args a) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    float g = i < a.rows * a.columns ? number(in<Half>(a, 0)[i]) : 0.f;
    if (i < a.rows * a.columns) out<float>(a, 0)[i] = g / in<float>(a, 1)[0];
    int any = __syncthreads_or(!isfinite(g));
    if (threadIdx.x != 0) return;
    if (any) atomicOr(&broken, 1u);
    __threadfence();
    if (atomicInc(&blocks_done, gridDim.x - 1) != gridDim.x - 1) return;
    next_scale(in<float>(a, 1), out<float>(a, 1), atomicExch(&broken, 0u) == 0);
}

__device__ float softplus(float z) { return fmaxf(z, 0.f) + log1pf(expf(-fabsf(z))); }

// Sum over one block, in an order that depends on the block's size alone.
__device__ void write_sum(float sum, float *out) {
    __shared__ float sums[1024];
    sums[threadIdx.x] = sum;
    __syncthreads();
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
        __syncthreads();
    }
    if (threadIdx.x == 0) *out = sums[0];
}

// logits, labels, weights [n], count [1] (n as a number): sum of the weighted cross-entropy
extern "C" __global__ void cross_entropy(Args a, int n) {
    float sum = 0.f;
    const float *z = in<float>(a, 0), *y = in<float>(a, 1), *w = in<float>(a, 2);
    for (int i = threadIdx.x; i < n; i += blockDim.x) sum += (softplus(z[i]) - y[i] * z[i]) * w[i];
    write_sum(sum, out<float>(a, 0));
}

// d [1], logits, labels, weights [n]: d times the slope of the cross-entropy
extern "C" __global__ void cross_entropy_grad(Args a) {
    EACH(a.rows * a.columns)
    float p = 1.f / (1.f + expf(-in<float>(a, 1)[i]));
    out<float>(a, 0)[i] = in<float>(a, 0)[0] * (p - in<float>(a, 2)[i]) * in<float>(a, 3)[i];
}

// step [1], factor and summand of four rounds and the bound [9], both as i64; factor of what is kept [1]: see dropout.rs
template <typename T>
__device__ void dropout_mask_of(Args a) {
    EACH(a.rows * a.columns)
    const long long prime = 2147483647;
    long long step = in<long long>(a, 0)[0];
    const long long *keys = in<long long>(a, 1);
    long long h = i + 1;
    for (int round = 0; round < 4; round++) {
        long long base = (h + (step * keys[2 * round] + keys[2 * round + 1]) % prime) % prime;
        long long second = base * base % prime;
        h = second * second % prime * base % prime;
    }
    put(out<T>(a, 0) + i, h >= keys[8] ? number(in<T>(a, 2)[0]) : 0.f);
}
OF_FLOATS(dropout_mask)

// logits, labels, weights [n]: weighted number of rows on the right side of 0
extern "C" __global__ void correct(Args a, int n) {
    float sum = 0.f;
    const float *z = in<float>(a, 0), *y = in<float>(a, 1), *w = in<float>(a, 2);
    for (int i = threadIdx.x; i < n; i += blockDim.x) sum += ((z[i] >= 0.f) == (y[i] > 0.5f)) ? w[i] : 0.f;
    write_sum(sum, out<float>(a, 0));
}
