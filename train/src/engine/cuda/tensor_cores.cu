// What the kernels of the blocks stand on (product, kernel_grad, rows, weights, head, gradient; `train/src/blocks` says what each is in
// the graph): copies past the registers, tensor cores, and elements of the precision that they are compiled for, one at a time.
//
// Matrices have rows of `stride` elements, a multiple of 16 bytes; the elements past the last column are 0.

// PRECISION is one of these: f32 by three products of tf32, tf32, halves.
#define EXACT 0
#define TF32 1
#define HALVES 2
#if PRECISION == HALVES
typedef Half T;
#else
typedef float T;
#endif
enum { E = 16 / sizeof(T) };  // elements of a chunk of 16 bytes

#ifndef EMULATED
#define DYNAMIC_SHARED(type, name) extern __shared__ type name[]

__device__ unsigned shared_address(const void *p) { return (unsigned)__cvta_generic_to_shared(p); }

// Copy 16 bytes, or write as many zeros; done after `copies_wait`. `near`: by way of the cache of the multiprocessor, for rows that
// it reads again, the background's above all: that one row has half of all reads, more than its place in the L2 cache can answer.
__device__ void copy_chunk(void *to, const void *from, bool any) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :: "r"(shared_address(to)), "l"(from), "r"(any ? 16 : 0) : "memory");
}
__device__ void copy_chunk_near(void *to, const void *from, bool any) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 16, %2;"
                 :: "r"(shared_address(to)), "l"(from), "r"(any ? 16 : 0) : "memory");
}
__device__ void copies_close() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Wait until no more than `left` groups of copies are under way.
template <int left>
__device__ void copies_wait() { asm volatile("cp.async.wait_group %0;" :: "n"(left) : "memory"); }

// Four 8x8 matrices of 16-bit elements, or 8x4 of words; a thread names a row, of matrix lane / 8.
__device__ void matrices4(unsigned *r, const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}
__device__ void matrices2(unsigned *r, const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1]) : "r"(shared_address(row)) : "memory");
}
__device__ void turned4(unsigned *r, const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}

// c [16, 8] += a [16, 8 words] b [8 words, 8]
__device__ void multiply_halves(float *c, const unsigned *a, const unsigned *b) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ void multiply_tf32(float *c, const unsigned *a, const unsigned *b) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ unsigned round_tf32(unsigned x) {
    unsigned y;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(__uint_as_float(x)));
    return y;
}
#endif

union __align__(16) Chunk {
    unsigned words[4];
    T elements[E];
};

__device__ void multiply(float *c, const unsigned *a, const unsigned *b) {
#if PRECISION == HALVES
    multiply_halves(c, a, b);
#elif PRECISION == TF32
    multiply_tf32(c, a, b);
#else
    unsigned a_high[4], a_low[4], b_high[2], b_low[2];
    for (int i = 0; i < 4; i++) {
        a_high[i] = round_tf32(a[i]);
        a_low[i] = round_tf32(__float_as_uint(__uint_as_float(a[i]) - __uint_as_float(a_high[i])));
    }
    for (int i = 0; i < 2; i++) {
        b_high[i] = round_tf32(b[i]);
        b_low[i] = round_tf32(__float_as_uint(__uint_as_float(b[i]) - __uint_as_float(b_high[i])));
    }
    multiply_tf32(c, a_low, b_high);
    multiply_tf32(c, a_high, b_low);
    multiply_tf32(c, a_high, b_high);
#endif
}

// Operands of `multiply` as the tensor cores take them.
template <int count>
__device__ void rounded(unsigned *words) {
#if PRECISION == TF32
#pragma unroll
    for (int i = 0; i < count; i++) words[i] = round_tf32(words[i]);
#endif
}

__device__ void put_pair(T *at, float first, float second) {
#if PRECISION == HALVES
    Half pair[2];
    put(pair, first), put(pair + 1, second);
    *(unsigned *)at = pair[0].bits | (unsigned)pair[1].bits << 16;
#else
    *(float2 *)at = make_float2(first, second);
#endif
}

// A chunk as numbers, and back.
__device__ void unpack(const void *at, float *x) {
    Chunk chunk = *(const Chunk *)at;
#pragma unroll
    for (int e = 0; e < E; e++) x[e] = number(chunk.elements[e]);
}
__device__ void pack_chunk(void *at, const float *x) {
    Chunk chunk;
#pragma unroll
    for (int e = 0; e < E; e++) put(chunk.elements + e, x[e]);
    *(Chunk *)at = chunk;
}
