// The dense layers past the first product and the loss, there and back.

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
    float *logits;           // of `logits`: [batch]
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

// Some rows of the batch in shared memory: what comes out of the hidden layers, gradients of what goes into their relu and of the logit
// (the column past the last), and room for `rows_times`.
struct HeadRows {
    float *h, *d, *shares;   // [HEAD_ROWS, columns], [HEAD_ROWS, d_stride], see `rows_times`
    int d_stride, row_0;
};

// The first hidden layer, from the parts of its product.
__device__ void first_layer(const Head &a, const HeadRows &r) {
    int units = a.units[0], all = HEAD_ROWS * units, groups = max(1, HEAD_THREADS / all);
    for (int at = threadIdx.x; at < groups * all; at += HEAD_THREADS) {
        int row = at % all / units, unit = at % units;
        float sum = 0.f;
        if (r.row_0 + row < a.batch) {
#pragma unroll 16
            for (int part = at / all; part < a.part_count; part += groups)
                sum += a.parts[((size_t)part * a.batch + r.row_0 + row) * units + unit];
        }
        r.shares[at] = sum;
    }
    __syncthreads();
    for (int at = threadIdx.x; at < all; at += HEAD_THREADS) {
        int row = at / units, unit = at % units;
        float z = a.params[a.bias[0] + unit];
        for (int group = 0; group < groups; group++) z += r.shares[group * all + at];
        r.h[row * a.columns + unit] = r.row_0 + row < a.batch ? fmaxf(z, 0.f) * keep(a, r.row_0 + row, unit) : 0.f;
    }
    __syncthreads();
}

// The hidden layers past the first.
__device__ void later_layers(const Head &a, const HeadRows &r) {
    int start = 0, units = a.units[0];
    for (int layer = 1; layer < a.layers; layer++) {
        int next = start + units;
        auto forward = [&](int row, int unit, float sum) {
            float z = fmaxf(sum + a.params[a.bias[layer] + unit], 0.f);
            r.h[row * a.columns + next + unit] = z * keep(a, r.row_0 + row, next + unit);
        };
        rows_times(r.h + start, a.columns, a.params + a.weight[layer], units, a.units[layer], r.shares, forward);
        start = next, units = a.units[layer];
    }
}

// The logit of a row, by a warp.
__device__ float logit_of(const Head &a, const HeadRows &r, int row) {
    int units = a.units[a.layers - 1];
    const float *last = a.params + a.weight[a.layers], *h = r.h + row * a.columns + a.columns - units;
    float z = 0.f;
    for (int unit = threadIdx.x % 32; unit < units; unit += 32) z += h[unit] * last[unit];
    for (int other = 16; other > 0; other /= 2) z += __shfl_xor_sync(0xffffffffu, z, other);
    return z + a.params[a.bias[a.layers]];
}

// Logit, loss and slope of each row, by a warp each.
__device__ void loss_rows(const Head &a, const HeadRows &r) {
    int lane = threadIdx.x % 32, row = threadIdx.x / 32, at = r.row_0 + row;
    if (row < HEAD_ROWS) {
        float z = logit_of(a, r, row), slope = 0.f;
        if (lane == 0 && at < a.batch) {
            float loss = loss_of(a, z, a.labels[at], slope);
            slope *= a.weights[at] / a.count[0] * (a.scale ? a.scale[0] : 1.f);
            a.rows[2 * at] = loss * a.weights[at];
            a.rows[2 * at + 1] = ((z >= 0.f) == (a.labels[at] > 0.5f)) ? a.weights[at] : 0.f;
        }
        if (lane == 0) r.d[row * r.d_stride + a.columns] = slope;
    }
    __syncthreads();
}

// What a unit gets from the layer after it, through dropout and relu.
__device__ void slopes_back(const Head &a, const HeadRows &r) {
    int after = a.columns, after_units = 1;
    float kept = a.kept == 0.f ? 1.f : a.kept;
    for (int layer = a.layers - 1; layer >= 0; layer--) {
        const float *weights = layer + 1 == a.layers ? a.params + a.weight[a.layers] : a.turned + a.transposed[layer + 1];
        int from = after - a.units[layer];
        auto back = [&](int row, int unit, float sum) {
            r.d[row * r.d_stride + from + unit] = r.h[row * a.columns + from + unit] > 0.f ? sum * kept : 0.f;
        };
        rows_times(r.d + after, r.d_stride, weights, after_units, a.units[layer], r.shares, back);
        after = from, after_units = a.units[layer];
    }
}

__device__ HeadRows rows_of_block(const Head &a) {
    DYNAMIC_SHARED(float, shared);
    HeadRows r;
    r.d_stride = a.columns + 1, r.row_0 = blockIdx.x * HEAD_ROWS;
    r.h = shared, r.d = r.h + HEAD_ROWS * a.columns, r.shares = r.d + HEAD_ROWS * r.d_stride;
    return r;
}

// The way there alone.
extern "C" __global__ void __launch_bounds__(HEAD_THREADS) logits(Head a) {
    HeadRows r = rows_of_block(a);
    first_layer(a, r);
    later_layers(a, r);
    int row = threadIdx.x / 32;
    if (row >= HEAD_ROWS) return;
    float z = logit_of(a, r, row);
    if (threadIdx.x % 32 == 0 && r.row_0 + row < a.batch) a.logits[r.row_0 + row] = z;
}

extern "C" __global__ void __launch_bounds__(HEAD_THREADS) head(Head a) {
    HeadRows r = rows_of_block(a);
    first_layer(a, r);
    later_layers(a, r);
    loss_rows(a, r);
    slopes_back(a, r);
    for (int at = threadIdx.x; at < HEAD_ROWS * r.d_stride; at += HEAD_THREADS) {
        int row = r.row_0 + at / r.d_stride, column = at % r.d_stride;
        if (row >= a.batch) continue;
        a.slopes[(size_t)row * r.d_stride + column] = r.d[at];
        if (column < a.columns) a.hidden[(size_t)row * a.columns + column] = r.h[at / r.d_stride * a.columns + column];
    }
    for (int at = threadIdx.x; at < HEAD_ROWS * a.first_stride; at += HEAD_THREADS) {
        int row = at / a.first_stride, unit = at % a.first_stride;
        if (r.row_0 + row < a.batch)
            put(a.first + (size_t)(r.row_0 + row) * a.first_stride + unit, unit < a.units[0] ? r.d[row * r.d_stride + unit] : 0.f);
    }
}
