// The GPU's kernels against plain loops in f64, on the CPU: `kernels.rs` compiles this for each precision.
#include "emulate.h"
#include "../../src/engine/cuda/pack.cu"
#include "../../src/engine/cuda/fused.cu"
#include "../../src/engine/cuda/tensor_cores.cu"
#include "../../src/engine/cuda/product.cu"
#include "../../src/engine/cuda/kernel_grad.cu"
#include "../../src/engine/cuda/rows.cu"
#include "../../src/engine/cuda/weights.cu"
#include "../../src/engine/cuda/head.cu"
#include "../../src/engine/cuda/gradient.cu"

float number(Half x) { return half_number(x.bits); }
void put(Half *at, float x) { at->bits = _cvtss_sh(x, 0); }

using emulated::launch;
using std::vector;

static const double ROUNDING = PRECISION == EXACT ? 2e-6 : PRECISION == TF32 ? 2e-3 : 4e-3;
static int failures = 0;
static uint64_t state = 1;

static uint64_t draw() {
    state += 0x9e3779b97f4a7c15ull;
    uint64_t z = state;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull, z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}
static int below(int n) { return draw() % n; }
static float uniform() { return (float)((double)(draw() >> 11) / 4503599627370496.0 - 1.0); }
static int padded(int columns) { return (columns + E - 1) / E * E; }
static double get(T x) { return number(x); }

// Numbers of the kernels' type; elements past `columns` of a row are 0.
static vector<T> matrix(int rows, int columns, int stride) {
    vector<T> found((size_t)rows * stride);
    for (int at = 0; at < rows * stride; at++) put(&found[at], at % stride < columns ? uniform() : 0.f);
    return found;
}
static vector<float> floats(size_t count) {
    vector<float> found(count);
    for (float &x : found) x = uniform();
    return found;
}
static vector<int> indices(int count, int most) {
    vector<int> found(count);
    for (int &x : found) x = below(3) == 0 ? 0 : below(most);
    return found;
}
template <typename U>
static vector<U> poisoned(size_t count) {
    vector<U> found(count);
    std::memset((void *)found.data(), 0xff, count * sizeof(U));
    return found;
}

// Greatest difference, next to the size of what was expected.
static void check(const char *what, const vector<double> &expected, const vector<double> &found, double limit) {
    double size = 1e-30, apart = 0;
    for (size_t at = 0; at < expected.size(); at++) {
        size = std::max(size, std::fabs(expected[at]));
        double d = std::fabs(expected[at] - found[at]);
        apart = d <= apart ? apart : d;  // what is no number is apart
        if (std::isnan(d)) { apart = INFINITY; break; }
    }
    bool good = apart <= limit * size;
    failures += !good;
    if (!good) std::printf("FAILED %s: %g of %g\n", what, apart, size);
}
template <typename U>
static vector<double> values(const vector<U> &x) {
    vector<double> found(x.size());
    for (size_t at = 0; at < x.size(); at++) found[at] = number(x[at]);
    return found;
}

static void product_case(int goal, int bn) {
    int taps = 1 + below(5), inputs = 1 + below(70), columns = 1 + below(goal == POOLED ? 140 : 90), stride = padded(inputs);
    int limit = 1 + below(60), further_rows = below(3), count = 4 * (1 + below(50)), out_stride = padded(columns);
    int splits = goal == PARTS ? 1 + below(3) : 1, per_split = (taps + splits - 1) / splits;
    splits = (taps + per_split - 1) / per_split;
    bool own = goal == ROWS && below(3) == 0;
    if (own) taps = per_split = splits = 1, limit = count;
    vector<T> rows = matrix(limit, inputs, stride), further = matrix(further_rows + 1, inputs, stride);
    vector<T> weights = matrix(columns * taps, inputs, stride);
    vector<float> bias = floats(columns), parts = poisoned<float>((size_t)splits * count * columns);
    vector<int> index = indices(count * taps, limit + 4);
    if (goal == PARTS && further_rows == 0) for (int &at : index) at = min(at, limit - 1);
    int outs = goal == POOLED ? count / 4 : count;
    vector<T> out = poisoned<T>((size_t)outs * out_stride);
    vector<unsigned char> choice = poisoned<unsigned char>((size_t)outs * out_stride);
    Product p{rows.data(), further.data(), own ? nullptr : index.data(), weights.data(), bias.data(), out.data(), parts.data(),
              choice.data(), count, taps, stride, limit, further_rows, columns, out_stride, per_split};
    Index grid{unsigned(count + 127) / 128, unsigned(goal == PARTS ? columns + bn - 1 : out_stride + bn - 1) / bn, unsigned(splits)};
    auto with = [&](auto kernel) { launch(grid, 256, [&] { kernel(p); }); };
    if (goal == POOLED) with(bn == 16 ? product_pooled_16 : bn == 32 ? product_pooled_32 : bn == 64 ? product_pooled_64 : product_pooled_128);
    if (goal == ROWS) with(bn == 16 ? product_rows_16 : bn == 32 ? product_rows_32 : bn == 64 ? product_rows_64 : product_rows_128);
    if (goal == PARTS) with(bn == 16 ? product_parts_16 : bn == 32 ? product_parts_32 : bn == 64 ? product_parts_64 : product_parts_128);

    vector<double> sums((size_t)splits * count * out_stride, 0.0);
    for (int row = 0; row < count; row++)
        for (int column = 0; column < columns; column++)
            for (int tap = 0; tap < taps; tap++) {
                int at = own ? row : index[row * taps + tap];
                if (at >= limit + further_rows) continue;
                const T *from = at < limit ? &rows[(size_t)at * stride] : &further[(size_t)(at - limit) * stride];
                double &sum = sums[((size_t)(tap / per_split) * count + row) * out_stride + column];
                for (int i = 0; i < inputs; i++) sum += get(from[i]) * get(weights[((size_t)column * taps + tap) * stride + i]);
            }
    if (goal == ROWS) return check("rows", sums, values(out), ROUNDING);
    if (goal == PARTS) {
        vector<double> expected;
        for (size_t at = 0; at < sums.size(); at++) if ((int)(at % out_stride) < columns) expected.push_back(sums[at]);
        return check("parts", expected, values(parts), ROUNDING);
    }
    vector<double> expected((size_t)outs * out_stride), found = values(out);
    double most_of_all = 0;
    for (int cell = 0; cell < outs; cell++)
        for (int column = 0; column < out_stride; column++) {
            double most = -INFINITY;
            for (int m = 0; m < 4; m++) most = std::max(most, sums[((size_t)4 * cell + m) * out_stride + column]);
            expected[(size_t)cell * out_stride + column] = std::max(0.0, most + (column < columns ? bias[column] : 0.f));
            most_of_all = std::max(most_of_all, std::fabs(most));
        }
    check("pooled", expected, found, ROUNDING * std::max(1.0, most_of_all));
    for (int cell = 0; cell < outs; cell++)
        for (int column = 0; column < out_stride; column++) {
            size_t at = (size_t)cell * out_stride + column;
            int chosen = choice[at];
            double y = found[at];
            bool good = chosen <= 4 && (chosen == 4) == !(y > 0);
            if (chosen < 4) {
                double own_sum = sums[((size_t)4 * cell + chosen) * out_stride + column] + bias[column];
                good = good && std::fabs(own_sum - expected[at]) <= 2 * ROUNDING * std::max(1.0, most_of_all);
                // Of equal ones the first.
                for (int m = 0; m < chosen; m++) {
                    bool same = true;
                    for (int tap = 0; tap < taps; tap++)
                        same = same && index[(4 * cell + m) * taps + tap] == index[(4 * cell + chosen) * taps + tap];
                    good = good && !same;
                }
            }
            if (!good) { failures++; std::printf("FAILED choice %d at %zu\n", chosen, at); return; }
        }
}

static void kernel_grad_case(int size) {
    int taps = 1 + below(5), inputs = 1 + below(180), outputs = 1 + below(180), members = 1 + below(200), limit = 1 + below(50);
    int stride = padded(inputs), slope_stride = padded(outputs), per_split = 32 * (1 + below(4)), splits = (members + per_split - 1) / per_split;
    int part_count = 1 + below(9), sum_rows = below(6);
    vector<T> rows = matrix(limit, inputs, stride), slopes = matrix(members, outputs, slope_stride);
    vector<int> index = indices(members * taps, limit);
    vector<float> parts = floats((size_t)part_count * sum_rows * slope_stride), out = poisoned<float>((size_t)splits * taps * inputs * outputs);
    vector<float> sums = poisoned<float>(sum_rows * slope_stride);
    vector<T> too = poisoned<T>(sum_rows * slope_stride);
    int tiles = taps * ((inputs + size - 1) / size) * ((outputs + size - 1) / size);
    KernelGrad a{rows.data(), index.data(), slopes.data(), out.data(), parts.data(), sums.data(), too.data(), members, taps, inputs,
                 stride, outputs, slope_stride, per_split, part_count, sum_rows, tiles};
    Index grid{unsigned(tiles + (sum_rows * slope_stride + 31) / 32), unsigned(splits), 1};
    launch(grid, size == 128 ? 256 : 128, [&] { size == 32 ? kernel_grad_32(a) : size == 64 ? kernel_grad_64(a) : kernel_grad_128(a); });
    vector<double> expected((size_t)splits * taps * inputs * outputs, 0.0), added(sum_rows * slope_stride, 0.0);
    for (int m = 0; m < members; m++)
        for (int tap = 0; tap < taps; tap++)
            for (int i = 0; i < inputs; i++)
                for (int o = 0; o < outputs; o++)
                    expected[(((size_t)(m / per_split) * taps + tap) * inputs + i) * outputs + o] +=
                        get(rows[(size_t)index[m * taps + tap] * stride + i]) * get(slopes[(size_t)m * slope_stride + o]);
    for (int part = 0; part < part_count; part++)
        for (int at = 0; at < sum_rows * slope_stride; at++) added[at] += parts[(size_t)part * sum_rows * slope_stride + at];
    check("kernel gradient", expected, values(out), ROUNDING);
    check("sums", added, values(sums), 1e-6);
    check("sums too", added, values(too), 1e-3);
}

static void cell_grad_case() {
    int cells = 1 + below(300), columns = 1 + below(300), stride = padded(columns), taps = 1 + below(MOST_TAPS), blocks = 1 + below(5);
    int first_parts = below(2) * 3;
    vector<T> d = matrix(cells, columns, stride), out = poisoned<T>((size_t)4 * cells * stride);
    vector<float> first = floats(first_parts * stride), parts = poisoned<float>((size_t)blocks * (taps + 1) * stride);
    vector<unsigned char> choice((size_t)cells * stride);
    for (auto &c : choice) c = below(5);
    alignas(16) static int index[4 * 300 * MOST_TAPS];
    for (int &at : index) at = below(3) == 0 ? 0 : below(40);
    CellGrad a{d.data(), first.data(), choice.data(), index, out.data(), parts.data(), cells, stride, taps, first_parts};
    launch({unsigned(blocks), 1, 1}, SUMMING_THREADS, [&] { cell_grad(a); });
    vector<double> expected((size_t)4 * cells * stride, 0.0), sums((taps + 1) * stride, 0.0), found(sums.size(), 0.0);
    for (int cell = 0; cell < cells; cell++)
        for (int column = 0; column < stride; column++) {
            size_t at = (size_t)cell * stride + column;
            double x = get(d[at]);
            if (cell == 0 && first_parts) { x = 0; for (int p = 0; p < first_parts; p++) x += first[p * stride + column]; }
            int m = choice[at];
            if (m == 4) continue;
            expected[((size_t)4 * cell + m) * stride + column] = x;
            for (int tap = 0; tap < taps; tap++) if (index[(4 * cell + m) * taps + tap] == 0) sums[tap * stride + column] += x;
            sums[taps * stride + column] += x;
        }
    for (size_t at = 0; at < parts.size(); at++) found[at % sums.size()] += parts[at];
    check("cell gradient", expected, values(out), 1e-3);
    check("sums over the background", sums, found, 1e-5);
}

static void stem_case() {
    int count = 1 + below(400), taps = 2 + below(MOST_TAPS), columns = 1 + below(300), stride = padded(columns), blocks = 1 + below(5);
    vector<float> pixels = floats(count * taps), weights = floats(taps * columns), parts = poisoned<float>((size_t)blocks * taps * columns);
    vector<T> out = poisoned<T>((size_t)count * stride), d = matrix(count, columns, stride);
    Stem a{pixels.data(), weights.data(), out.data(), d.data(), parts.data(), count, taps, columns, stride};
    launch({unsigned(1 + below(5)), 1, 1}, SUMMING_THREADS, [&] { stem(a); });
    vector<double> expected((size_t)count * stride, 0.0), grads(taps * columns, 0.0), found(taps * columns, 0.0);
    for (int row = 0; row < count; row++)
        for (int column = 0; column < columns; column++) {
            double &x = expected[(size_t)row * stride + column];
            for (int tap = 0; tap < taps; tap++) x += (double)pixels[row * taps + tap] * weights[tap * columns + column];
            x = std::max(x, 0.0);
        }
    check("stem", expected, values(out), PRECISION == HALVES ? 1e-3 : 1e-6);
    launch({unsigned(blocks), 1, 1}, SUMMING_THREADS, [&] { stem_grad(a); });
    for (int row = 0; row < count; row++)
        for (int column = 0; column < columns; column++)
            for (int tap = 0; tap < taps; tap++)
                if (get(out[(size_t)row * stride + column]) > 0)
                    grads[tap * columns + column] += pixels[row * taps + tap] * get(d[(size_t)row * stride + column]);
    for (size_t at = 0; at < parts.size(); at++) found[at % grads.size()] += parts[at];
    check("stem gradient", grads, found, 1e-5);
}

static void place_grad_case() {
    int all = 1 + below(300), columns = 1 + below(100), stride = padded(columns), count = 1 + below(200), blocks = 1 + below(4);
    vector<T> d = matrix(all, columns, stride), out = poisoned<T>((size_t)count * stride);
    vector<int> found(count), places = indices(all, count);
    for (int &at : found) at = below(all + 2);
    vector<float> parts = poisoned<float>(blocks * stride);
    int row_blocks = (count * (stride / E) + SUMMING_THREADS - 1) / SUMMING_THREADS;
    PlaceGrad a{d.data(), found.data(), places.data(), out.data(), parts.data(), count, all, stride, row_blocks};
    launch({unsigned(row_blocks + blocks), 1, 1}, SUMMING_THREADS, [&] { place_grad(a); });
    vector<double> expected((size_t)count * stride, 0.0), sums(stride, 0.0), added(stride, 0.0);
    for (int row = 1; row < count; row++)
        for (int c = 0; c < stride && found[row] < all; c++) expected[(size_t)row * stride + c] = get(d[(size_t)found[row] * stride + c]);
    for (int place = 0; place < all; place++)
        for (int c = 0; c < stride; c++) if (places[place] == 0) sums[c] += get(d[(size_t)place * stride + c]);
    for (size_t at = 0; at < parts.size(); at++) added[at % stride] += parts[at];
    check("rows at their places", expected, values(out), 1e-3);
    check("the background's places", sums, added, 1e-5);
}

static void weights_case() {
    int taps = 1 + below(5), inputs = 1 + below(40), outputs = 1 + below(40), is = padded(inputs), os = padded(outputs), from = below(50);
    vector<float> params = floats(from + taps * inputs * outputs);
    Weights a{};
    a.params = params.data(), a.number = 4;
    int lengths[4] = {outputs * taps * is, inputs * taps * os, taps * is * os, inputs * outputs}, to[4] = {0}, block = 0;
    for (int order = 0; order < 4; order++) {
        if (order > 0 && order < 3) to[order] = to[order - 1] + lengths[order - 1];
        a.parts[order] = {order, from, to[order], order == 3 ? 1 : taps, inputs, outputs, is, os, lengths[order], block};
        block += (lengths[order] + 255) / 256;
    }
    vector<T> packed = poisoned<T>(to[2] + lengths[2]);
    vector<float> turned = poisoned<float>(lengths[3]);
    a.packed = packed.data(), a.turned = turned.data();
    launch({unsigned(block), 1, 1}, 256, [&] { pack_weights(a); });
    auto w = [&](int t, int i, int o) { return i < inputs && o < outputs ? params[from + (t * inputs + i) * outputs + o] : 0.f; };
    vector<double> expected;
    for (int o = 0; o < outputs; o++) for (int t = 0; t < taps; t++) for (int i = 0; i < is; i++) expected.push_back(w(t, i, o));
    for (int i = 0; i < inputs; i++) for (int t = 0; t < taps; t++) for (int o = 0; o < os; o++) expected.push_back(w(t, i, o));
    for (int t = 0; t < taps; t++) for (int i = 0; i < is; i++) for (int o = 0; o < os; o++) expected.push_back(w(t, i, o));
    check("packed weights", expected, values(packed), 1e-3);
    expected.clear();
    for (int o = 0; o < outputs; o++) for (int i = 0; i < inputs; i++) expected.push_back(w(0, i, o));
    check("turned weights", expected, values(turned), 0);
}

static double softplus64(double z) { return std::max(z, 0.0) + std::log1p(std::exp(-std::fabs(z))); }

static void head_case() {
    int batch = 1 + below(20), layers = 1 + below(3), units[3], columns = 0, part_count = 1 + below(12);
    for (int l = 0; l < layers; l++) units[l] = 1 + below(l == 0 ? 200 : 90), columns += units[l];
    vector<float> params = floats(20000 + 200 * 90 * 2), turned = poisoned<float>(200 * 90 * 2), labels(batch), weights(batch), count{3.f};
    for (float &w : params) w *= 0.3f;
    Head a{};
    int at = 0, to = 0;
    for (int l = 0; l <= layers; l++) {
        int in = l ? units[l - 1] : 0, out = l < layers ? units[l] : 1;
        a.weight[l] = at, at += in * out, a.bias[l] = at, at += out, a.transposed[l] = to;
        if (l > 0 && l < layers)
            for (int o = 0; o < out; o++) for (int i = 0; i < in; i++) turned[to++] = params[a.weight[l] + i * out + o];
        if (l < layers) a.units[l] = units[l];
    }
    for (int b = 0; b < batch; b++) labels[b] = below(2), weights[b] = below(4) > 0;
    vector<float> parts = floats((size_t)part_count * batch * units[0]);
    vector<long long> step{below(100000)};
    vector<float> scale{below(2) ? 1024.f : 1.f, 0, 1};
    for (int r = 0; r < 9; r++) a.keys[r] = 1 + draw() % 2147483646;
    a.keys[8] = 2147483647 / 3;
    a.kept = below(2) ? 1.5f : 0.f;
    a.smoothing = below(2) ? 0.05f : 0.f, a.gamma = below(2) ? 1.7f : 0.f, a.alpha = below(2) ? 0.25f : -1.f;
    a.background = below(2) ? 0.6f : 1.f, a.main = below(2) ? 3.5f : 1.f;
    int first_stride = padded(units[0]);
    vector<float> hidden = poisoned<float>(batch * columns), slopes = poisoned<float>(batch * (columns + 1)), rows = poisoned<float>(2 * batch);
    vector<T> first = poisoned<T>(batch * first_stride);
    a.parts = parts.data(), a.params = params.data(), a.turned = turned.data(), a.labels = labels.data(), a.weights = weights.data();
    a.count = count.data(), a.step = step.data(), a.scale = below(2) ? scale.data() : nullptr;
    a.hidden = hidden.data(), a.slopes = slopes.data(), a.first = first.data(), a.rows = rows.data();
    a.part_count = part_count, a.batch = batch, a.layers = layers, a.columns = columns, a.first_stride = first_stride;
    vector<float> scores = poisoned<float>(batch);
    a.logits = scores.data();
    launch({unsigned(batch + HEAD_ROWS - 1) / HEAD_ROWS, 1, 1}, HEAD_THREADS, [&] { head(a); });
    launch({unsigned(batch + HEAD_ROWS - 1) / HEAD_ROWS, 1, 1}, HEAD_THREADS, [&] { logits(a); });

    // The masks are dropout.rs's: checked against the CPU's graph on a GPU; here they are taken from `keep`.
    vector<double> h(batch * columns), d(batch * (columns + 1), 0.0), result(2 * batch), z_of(batch);
    auto loss = [&](double z, double label) {
        double target = label * (1 - 2.0 * a.smoothing) + a.smoothing, p = 1 / (1 + std::exp(-z));
        double value = softplus64(z) - target * z;
        if (a.gamma > 0) value *= std::pow(target * (1 - p) + (1 - target) * p, (double)a.gamma);
        if (a.alpha >= 0) value *= target * a.alpha + (1 - target) * (1 - a.alpha);
        return value * (label > 0.5 ? a.main : a.background);
    };
    for (int b = 0; b < batch; b++) {
        double *hb = &h[b * columns], *db = &d[b * (columns + 1)];
        int start = 0;
        for (int u = 0; u < units[0]; u++) {
            double z = params[a.bias[0] + u];
            for (int p = 0; p < part_count; p++) z += parts[((size_t)p * batch + b) * units[0] + u];
            hb[u] = std::max(z, 0.0) * keep(a, b, u);
        }
        for (int l = 1; l < layers; l++) {
            for (int u = 0; u < units[l]; u++) {
                double z = params[a.bias[l] + u];
                for (int i = 0; i < units[l - 1]; i++) z += hb[start + i] * params[a.weight[l] + i * units[l] + u];
                hb[start + units[l - 1] + u] = std::max(z, 0.0) * keep(a, b, start + units[l - 1] + u);
            }
            start += units[l - 1];
        }
        double z = params[a.bias[layers]];
        for (int u = 0; u < units[layers - 1]; u++) z += hb[start + u] * params[a.weight[layers] + u];
        z_of[b] = z;
        result[2 * b] = loss(z, labels[b]) * weights[b];
        result[2 * b + 1] = ((z >= 0) == (labels[b] > 0.5)) * weights[b];
        db[columns] = (loss(z + 1e-5, labels[b]) - loss(z - 1e-5, labels[b])) / 2e-5 * weights[b] / count[0] * (a.scale ? a.scale[0] : 1);
        int after = columns;
        for (int l = layers - 1; l >= 0; l--) {
            int from = after - units[l], out = l + 1 < layers ? units[l + 1] : 1;
            for (int u = 0; u < units[l]; u++) {
                double sum = 0;
                for (int o = 0; o < out; o++) sum += db[after + o] * params[a.weight[l + 1] + u * out + o];
                db[from + u] = hb[from + u] > 0 ? sum * (a.kept ? a.kept : 1) : 0;
            }
            after = from;
        }
    }
    check("hidden", h, values(hidden), 1e-5);
    check("slopes", d, values(slopes), 1e-4);
    check("loss", result, values(rows), 1e-5);
    check("logits", z_of, values(scores), 1e-5);
    vector<double> expected;
    for (int b = 0; b < batch; b++) for (int u = 0; u < first_stride; u++) expected.push_back(u < units[0] ? d[b * (columns + 1) + u] : 0.0);
    check("slopes of the first layer", expected, values(first), 1e-3);
}

static void gradient_case(bool scaled, bool broken) {
    int count = 1 + below(40), length = 1 + below(300), stride = 1 + below(50), with_stride = 1 + below(50), rows = 1 + below(300);
    vector<float> splits = floats((size_t)count * length), left = floats((size_t)rows * stride), right = floats((size_t)rows * with_stride);
    vector<float> loss = floats(2 * rows), sums = floats(2), sums_next = poisoned<float>(2), scale{8.f, 5.f, 1.f}, scale_next = poisoned<float>(3);
    vector<long long> step{41}, batch{7}, step_next(1), batch_next(1);
    if (below(2)) length += 1500;
    splits = floats((size_t)count * length);
    if (broken) splits[below(count * length)] = INFINITY;
    int few = below(2) * FEW_SPLITS, lengths[3] = {length, stride * with_stride, stride}, start = 0, block = 0;
    Gradient a{};
    a.number = 3;
    for (int how = 0; how < 3; how++) {
        a.parts[how] = {how == 0 ? splits.data() : left.data(), right.data(), how == 0 ? few : how, start, lengths[how], how == 0 ? count : rows, stride,
                        with_stride, with_stride, block};
        start += lengths[how], block += how == 0 && few ? (lengths[how] + 1023) / 1024 : (lengths[how] + 63) / 64;
    }
    vector<float> out = poisoned<float>(start);
    a.out = out.data(), a.scale = scaled ? scale.data() : nullptr, a.scale_next = scale_next.data(), a.step = step.data(), a.batch = batch.data();
    a.sums = sums.data(), a.rows = loss.data(), a.step_next = step_next.data(), a.batch_next = batch_next.data(), a.sums_next = sums_next.data();
    a.row_count = rows;
    launch({unsigned(block), 1, 1}, 256, [&] { gradient(a); });
    vector<double> expected, total{sums[0], sums[1]};
    double by = scaled ? 8 : 1;
    for (int i = 0; i < length; i++) { double s = 0; for (int c = 0; c < count; c++) s += splits[(size_t)c * length + i]; expected.push_back(s / by); }
    for (int i = 0; i < stride; i++) for (int j = 0; j < with_stride; j++) {
        double s = 0;
        for (int r = 0; r < rows; r++) s += (double)left[(size_t)r * stride + i] * right[(size_t)r * with_stride + j];
        expected.push_back(s / by);
    }
    for (int i = 0; i < stride; i++) { double s = 0; for (int r = 0; r < rows; r++) s += left[(size_t)r * stride + i]; expected.push_back(s / by); }
    for (int r = 0; r < rows; r++) total[0] += loss[2 * r], total[1] += loss[2 * r + 1];
    if (!broken) check("gradient", expected, values(out), 1e-5);
    check("sums of the epoch", total, values(sums_next), 1e-4);
    vector<double> state = broken ? vector<double>{4, 0, 0} : vector<double>{8, 6, 1};
    if (scaled) check("loss scale", state, values(scale_next), 0);
    check("counters", {42, 8}, {(double)step_next[0], (double)batch_next[0]}, 0);
}

int main(int, char **arguments) {
    int rounds = std::atoi(arguments[1]);
    for (int round = 0; round < rounds; round++) {
        state = 1000 + round;
        for (int goal : {POOLED, ROWS, PARTS})
            for (int bn : {16, 32, 64, 128}) product_case(goal, bn);
        kernel_grad_case(32), kernel_grad_case(64), kernel_grad_case(128);
        cell_grad_case(), stem_case(), place_grad_case(), weights_case(), head_case();
        gradient_case(false, false), gradient_case(true, false), gradient_case(true, true);
        if (failures) std::printf("in round %d\n", round);
    }
    std::printf("%d rounds, %d failures\n", rounds, failures);
    return failures > 0;
}
