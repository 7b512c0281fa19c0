// The sign kernels of sign.py on the device; names and contracts are those given there. REAL is float or double.
//
// A warp reads 32 consecutive numbers and a ballot makes them one word, so that a number is read once and costs
// 1/8 byte of output. Threads stride over the grid; a warp enters or leaves a loop as a whole, as ballots require.

typedef unsigned int word;
typedef long long index;

const int BITS = 32;
const int PLANES = 16;
const word ALL = 0xffffffffu;

__device__ index first() { return blockIdx.x * (index)blockDim.x + threadIdx.x; }
__device__ index stride() { return gridDim.x * (index)blockDim.x; }
__device__ int lane() { return threadIdx.x % BITS; }
__device__ bool bit(word w, int j) { return (w >> j) & 1; }

// Write the word of the numbers v of this warp, of which v is coordinate i. Whether v counts as a plus.
__device__ bool write_sign(REAL v, bool inside, index i, const word *coins, word turn, word *words) {
    word plus = __ballot_sync(ALL, inside && v > 0);
    word even = __ballot_sync(ALL, inside && !(v > 0) && !(v < 0));
    index w = i / BITS;
    word result = plus | (even & (coins[w] ^ turn));
    if (lane() == 0) words[w] = result;
    return bit(result, lane());
}

__device__ word hashed(word w, word key) {
    word h = w * 0x9E3779B9u + key;
    h = (h ^ (h >> 16)) * 0x85EBCA6Bu;
    h = (h ^ (h >> 13)) * 0xC2B2AE35u;
    return h ^ (h >> 16);
}

extern "C" __global__ void toss(word key, word *coins, index size) {
    for (index w = first(); w < size; w += stride()) coins[w] = hashed((word)w, key);
}

extern "C" __global__ void ballot(const REAL *v, const word *coins, word turn, word *words, int *nan, index dim) {
    for (index i = first(); i - lane() < dim; i += stride()) {
        bool inside = i < dim;
        REAL value = inside ? v[i] : 0;
        write_sign(value, inside, i, coins, turn, words);
        if (value != value) *nan = 1;
    }
}

extern "C" __global__ void momentum_ballot(const REAL *g, REAL *m, REAL kept, REAL added, const word *coins, word turn,
                                           word *words, int *nan, index dim) {
    for (index i = first(); i - lane() < dim; i += stride()) {
        bool inside = i < dim;
        REAL value = inside ? kept * m[i] + added * g[i] : 0;
        if (inside) m[i] = value;
        write_sign(value, inside, i, coins, turn, words);
        if (value != value) *nan = 1;
    }
}

extern "C" __global__ void stochastic_ballot(const REAL *v, double bound, word key, word *words, int *nan, index dim) {
    for (index i = first(); i - lane() < dim; i += stride()) {
        bool inside = i < dim;
        REAL value = inside ? v[i] : 0;
        double drawn = hashed((word)i, key) / 2147483648.0 - 1;  // uniform on [-1, 1)
        word plus = __ballot_sync(ALL, inside && value > bound * drawn);
        if (lane() == 0) words[i / BITS] = plus;
        if (value != value) *nan = 1;
    }
}

// e <- e + step g; norms[block] <- the part of |e|_1 that this block has seen, always added in the same order.
extern "C" __global__ void feedback(const REAL *g, REAL *e, REAL step, double *norms, index dim) {
    __shared__ double parts[1024];
    double part = 0;
    for (index i = first(); i < dim; i += stride()) {
        REAL value = e[i] + step * g[i];
        e[i] = value;
        part += value < 0 ? -value : value;
    }
    parts[threadIdx.x] = part;
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) parts[threadIdx.x] += parts[threadIdx.x + half];
    }
    if (threadIdx.x == 0) norms[blockIdx.x] = parts[0];
}

// words <- signs of e; e <- e - scale sign(e)
extern "C" __global__ void feedback_ballot(REAL *e, REAL scale, const word *coins, word turn, word *words, index dim) {
    for (index i = first(); i - lane() < dim; i += stride()) {
        bool inside = i < dim;
        REAL value = inside ? e[i] : 0;
        bool plus = write_sign(value, inside, i, coins, turn, words);
        if (inside) e[i] = value - (plus ? scale : -scale);
    }
}

extern "C" __global__ void tally(const word *ballots, const word *coins, word *outcome, int planes, index n,
                                 index size) {
    index half = n / 2;
    for (index w = first(); w < size; w += stride()) {
        word count[PLANES] = {0};  // bit j of count[p] is bit p of the pluses of coordinate j
        for (index i = 0; i < n; ++i) {
            word carry = ballots[i * size + w];
#pragma unroll
            for (int p = 0; p < PLANES; ++p) {
                if (!((i + 1) >> p)) break;  // i + 1 votes do not reach this plane
                word over = count[p] & carry;
                count[p] ^= carry;
                carry = over;
            }
        }
        word more = 0, level = ALL;  // count > half and count = half, as far as the planes seen tell
#pragma unroll
        for (int p = PLANES - 1; p >= 0; --p) {
            if (bit(half, p)) {
                level &= count[p];
            } else {
                more |= level & count[p];
                level &= ~count[p];
            }
        }
        if (n % 2) level = 0;  // half of an odd number, rounded down, is no tie
        outcome[w] = more | (level & coins[w]);
        if (planes > 1) outcome[size + w] = ~level;
    }
}

extern "C" __global__ void count(const word *ballots, signed char *sums, index n, index size) {
    for (index i = first(); i < BITS * size; i += stride()) {
        int sum = 0;
        for (index voter = 0; voter < n; ++voter) sum += bit(ballots[voter * size + i / BITS], i % BITS) ? 1 : -1;
        sums[i] = sum;
    }
}

extern "C" __global__ void decide(const signed char *sums, const word *coins, word *outcome, int planes, index size) {
    for (index i = first(); i < BITS * size; i += stride()) {
        word plus = __ballot_sync(ALL, sums[i] > 0), tied = __ballot_sync(ALL, sums[i] == 0);
        index w = i / BITS;
        if (lane() == 0) {
            outcome[w] = plus | (tied & coins[w]);
            if (planes > 1) outcome[size + w] = ~tied;
        }
    }
}

extern "C" __global__ void mean(const word *ballots, const REAL *scales, REAL *v, index n, index size, index dim) {
    for (index i = first(); i < dim; i += stride()) {
        REAL sum = 0;
        for (index voter = 0; voter < n; ++voter)
            sum += bit(ballots[voter * size + i / BITS], i % BITS) ? scales[voter] : -scales[voter];
        v[i] = sum / n;
    }
}

extern "C" __global__ void apply(REAL *x, const word *outcome, const REAL *steps, REAL shrink, int planes, index size,
                                 index dim) {
    for (index i = first(); i < dim; i += stride()) {
        index w = i / BITS, chunk = w / size;
        const word *plus = outcome + chunk * planes * size + w % size;
        bool moved = planes == 1 || bit(plus[size], i % BITS);
        REAL step = bit(*plus, i % BITS) ? steps[chunk] : -steps[chunk];
        x[i] = shrink * x[i] - (moved ? step : 0);
    }
}
