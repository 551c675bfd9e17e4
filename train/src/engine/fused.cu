// Operators of the training step that take several of ONNX Runtime's: see `fused.rs` for what each computes.

struct Args {
    const float *in[6];
    float *out[3];
    int rows, columns;  // of the first output
};

#define EACH(count) \
    int i = blockIdx.x * blockDim.x + threadIdx.x; \
    if (i >= (count)) return;

// x [4 rows, columns], b [columns]: relu(max of each four rows + b)
extern "C" __global__ void cell_pool(Args a) {
    EACH(a.rows * a.columns)
    int row = i / a.columns, column = i % a.columns;
    const float *x = a.in[0] + (size_t)4 * row * a.columns + column;
    float most = fmaxf(fmaxf(x[0], x[a.columns]), fmaxf(x[2 * a.columns], x[3 * a.columns]));
    a.out[0][i] = fmaxf(most + a.in[1][column], 0.f);
}

// d [rows / 4, columns], x [rows, columns]: d at the first largest of each four rows, else 0
extern "C" __global__ void cell_max_grad(Args a) {
    EACH(a.rows / 4 * a.columns)
    int c = a.columns;
    size_t at = (size_t)(i / c) * 4 * c + i % c;
    const float *x = a.in[1] + at;
    int first = 0;
    float most = x[0];
    for (int member = 1; member < 4; member++)
        if (x[member * c] > most) most = x[member * c], first = member;
    float d = a.in[0][i];
    for (int member = 0; member < 4; member++) a.out[0][at + member * c] = member == first ? d : 0.f;
}

// dy, y: dy where y > 0, else 0
extern "C" __global__ void relu_grad(Args a) {
    EACH(a.rows * a.columns)
    a.out[0][i] = a.in[1][i] > 0.f ? a.in[0][i] : 0.f;
}

// params, m, v, gradient [P], rate [1]: params, m, v after Adam's step
extern "C" __global__ void adam(Args a) {
    EACH(a.rows * a.columns)
    float g = a.in[3][i], m = a.in[1][i], v = a.in[2][i];
    m += (g - m) * 0.1f;
    v += (g * g - v) * 0.001f;
    a.out[0][i] = a.in[0][i] - m * a.in[4][0] / (sqrtf(v) + 1e-7f);
    a.out[1][i] = m;
    a.out[2][i] = v;
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
    for (int i = threadIdx.x; i < n; i += blockDim.x)
        sum += (softplus(a.in[0][i]) - a.in[1][i] * a.in[0][i]) * a.in[2][i];
    write_sum(sum, a.out[0]);
}

// d [1], logits, labels, weights [n]: d times the slope of the cross-entropy
extern "C" __global__ void cross_entropy_grad(Args a) {
    EACH(a.rows * a.columns)
    float p = 1.f / (1.f + expf(-a.in[1][i]));
    a.out[0][i] = a.in[0][0] * (p - a.in[2][i]) * a.in[3][i];
}

// step [1], factor and summand of four rounds and the bound [9], both as i64; factor of what is kept [1]: see dropout.rs
extern "C" __global__ void dropout_mask(Args a) {
    EACH(a.rows * a.columns)
    const long long prime = 2147483647;
    long long step = *(const long long *)a.in[0];
    const long long *keys = (const long long *)a.in[1];
    long long h = i + 1;
    for (int round = 0; round < 4; round++) {
        long long base = (h + (step * keys[2 * round] + keys[2 * round + 1]) % prime) % prime;
        long long second = base * base % prime;
        h = second * second % prime * base % prime;
    }
    a.out[0][i] = h >= keys[8] ? a.in[2][0] : 0.f;
}

// logits, labels, weights [n]: weighted number of rows on the right side of 0
extern "C" __global__ void correct(Args a, int n) {
    float sum = 0.f;
    for (int i = threadIdx.x; i < n; i += blockDim.x)
        sum += ((a.in[0][i] >= 0.f) == (a.in[1][i] > 0.5f)) ? a.in[2][i] : 0.f;
    write_sum(sum, a.out[0]);
}
