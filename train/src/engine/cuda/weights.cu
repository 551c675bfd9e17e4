// Weights in the order that products read them.

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
