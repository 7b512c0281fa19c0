// The sign kernels of sign.py on the device; names and contracts are those given there. REAL is float or double. Where
// pointers are __restrict__, no two arguments may share memory.
//
// A warp takes a tile at a time: ROWS rows of four numbers for each lane, four in one access. All rows are asked for
// before the first is looked at: that many bytes have to be under way to keep the memory busy. The 32 numbers of a word
// are with eight lanes. Warps stride over the tiles, and each is in its loop as a whole, as exchanges between its lanes
// require.

typedef unsigned int word;
typedef long long index;

const int BITS = 32;
const int WIDTH = 4;  // numbers of one access
const int ROWS = 4;
const int ROW = BITS * WIDTH;
const int PLANES = 16;
const word ALL = 0xffffffffu;

__device__ index first() { return blockIdx.x * (index)blockDim.x + threadIdx.x; }
__device__ index stride() { return gridDim.x * (index)blockDim.x; }
__device__ int lane() { return threadIdx.x % BITS; }
__device__ bool bit(word w, int j) { return (w >> j) & 1; }

// What one access moves: 16 bytes of floats, twice as many of doubles.
struct alignas(16) Four {
    REAL at[WIDTH];
};

__device__ bool aligned(const REAL *v) { return (size_t)v % sizeof(Four) == 0; }

// Of a vector of dim numbers, those from `start` on.
struct Tile {
    index start, dim;
    bool whole;  // and aligned; else it is read and written number by number
};

// The first of the four coordinates of this lane in row r.
__device__ index place(const Tile &tile, int r) { return tile.start + ROW * r + WIDTH * lane(); }

__device__ index first_tile() { return first() / BITS * (ROWS * ROW); }
__device__ index tile_stride() { return stride() / BITS * (ROWS * ROW); }
__device__ Tile tile_at(index start, index dim, bool in_one_access) {
    return {start, dim, in_one_access && start + ROWS * ROW <= dim};
}

// Four numbers of v; past the end, zeros.
__device__ Four load(const REAL *v, const Tile &tile, int r) {
    index i = place(tile, r);
    if (tile.whole) return *(const Four *)(v + i);
    Four four = {};
    for (int c = 0; c < WIDTH; ++c)
        if (i + c < tile.dim) four.at[c] = v[i + c];
    return four;
}

__device__ void store(REAL *v, const Tile &tile, int r, const Four &four) {
    index i = place(tile, r);
    if (tile.whole) {
        *(Four *)(v + i) = four;
    } else {
        for (int c = 0; c < WIDTH; ++c)
            if (i + c < tile.dim) v[i + c] = four.at[c];
    }
}

// The lowest four bits are those of these four numbers.
__device__ word load_bits(const word *words, const Tile &tile, int r) {
    index i = place(tile, r);
    return tile.whole || i < tile.dim ? words[i / BITS] >> i % BITS : 0;
}

// Write the bits of row r, the lowest four of each lane, as words. Those past the end are written as 0.
__device__ void store_bits(word bits, const Tile &tile, int r, word *words) {
    index i = place(tile, r);
    word kept = (1u << WIDTH) - 1;
    if (!tile.whole && i + WIDTH > tile.dim) kept = i < tile.dim ? (1u << (tile.dim - i)) - 1 : 0;
    word result = (bits & kept) << i % BITS;
    for (int far = 1; far < BITS / WIDTH; far *= 2) result |= __shfl_xor_sync(ALL, result, far);
    if (i % BITS == 0 && (tile.whole || i < tile.dim)) words[i / BITS] = result;
}

__device__ bool has_nan(const Four &four) {
    bool nan = false;
    for (int c = 0; c < WIDTH; ++c) nan |= four.at[c] != four.at[c];
    return nan;
}

// A bit for each of four numbers, a zero's from the coins; higher bits mean nothing.
__device__ word sign_bits(const Four &four, word coins) {
    word plus = 0, minus = 0;
    for (int c = 0; c < WIDTH; ++c) {
        plus |= (word)(four.at[c] > 0) << c;
        minus |= (word)(four.at[c] < 0) << c;
    }
    return plus | (~minus & coins);
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

extern "C" __global__ void ballot(const REAL *__restrict__ v, const word *__restrict__ coins, word turn,
                                  word *__restrict__ words, int *nan, index dim) {
    for (index start = first_tile(); start < dim; start += tile_stride()) {
        Tile tile = tile_at(start, dim, aligned(v));
        Four value[ROWS];
        word coin[ROWS];
        bool bad = false;
        for (int r = 0; r < ROWS; ++r) {
            value[r] = load(v, tile, r);
            coin[r] = load_bits(coins, tile, r) ^ turn;
        }
        for (int r = 0; r < ROWS; ++r) {
            store_bits(sign_bits(value[r], coin[r]), tile, r, words);
            bad |= has_nan(value[r]);
        }
        if (bad) *nan = 1;
    }
}

extern "C" __global__ void momentum_ballot(const REAL *__restrict__ g, REAL *__restrict__ m, REAL kept, REAL added,
                                           const word *__restrict__ coins, word turn, word *__restrict__ words,
                                           int *nan, index dim) {
    for (index start = first_tile(); start < dim; start += tile_stride()) {
        Tile tile = tile_at(start, dim, aligned(g) && aligned(m));
        Four value[ROWS], gradient[ROWS];
        word coin[ROWS];
        bool bad = false;
        for (int r = 0; r < ROWS; ++r) {
            value[r] = load(m, tile, r);
            gradient[r] = load(g, tile, r);
            coin[r] = load_bits(coins, tile, r) ^ turn;
        }
        for (int r = 0; r < ROWS; ++r) {
            for (int c = 0; c < WIDTH; ++c) value[r].at[c] = kept * value[r].at[c] + added * gradient[r].at[c];
            store(m, tile, r, value[r]);
            store_bits(sign_bits(value[r], coin[r]), tile, r, words);
            bad |= has_nan(value[r]);
        }
        if (bad) *nan = 1;
    }
}

extern "C" __global__ void stochastic_ballot(const REAL *__restrict__ v, double bound, word key,
                                             word *__restrict__ words, int *nan, index dim) {
    for (index start = first_tile(); start < dim; start += tile_stride()) {
        Tile tile = tile_at(start, dim, aligned(v));
        Four value[ROWS];
        bool bad = false;
        for (int r = 0; r < ROWS; ++r) value[r] = load(v, tile, r);
        for (int r = 0; r < ROWS; ++r) {
            word bits = 0;
            for (int c = 0; c < WIDTH; ++c) {
                double drawn = hashed((word)(place(tile, r) + c), key) / 2147483648.0 - 1;  // uniform on [-1, 1)
                bits |= (word)(value[r].at[c] > bound * drawn) << c;
            }
            store_bits(bits, tile, r, words);
            bad |= has_nan(value[r]);
        }
        if (bad) *nan = 1;
    }
}

// The sum of what the threads of this block have, for thread 0; always added in the same order.
__device__ double sum_of_block(double part) {
    __shared__ double parts[1024];
    parts[threadIdx.x] = part;
    for (unsigned left = blockDim.x, half; left > 1; left = half) {
        half = (left + 1) / 2;
        __syncthreads();
        if (threadIdx.x + half < left) parts[threadIdx.x] += parts[threadIdx.x + half];
    }
    return parts[threadIdx.x];
}

// e <- e + step g; norms[block] <- the part of |e|_1 that this block has seen. g may be e.
extern "C" __global__ void feedback(const REAL *g, REAL *e, REAL step, double *norms, index dim) {
    double part = 0;
    for (index start = first_tile(); start < dim; start += tile_stride()) {
        Tile tile = tile_at(start, dim, aligned(g) && aligned(e));
        Four value[ROWS], gradient[ROWS];
        for (int r = 0; r < ROWS; ++r) {
            value[r] = load(e, tile, r);
            gradient[r] = load(g, tile, r);
        }
        for (int r = 0; r < ROWS; ++r) {
            for (int c = 0; c < WIDTH; ++c) {
                REAL sum = value[r].at[c] + step * gradient[r].at[c];
                value[r].at[c] = sum;
                part += sum < 0 ? -sum : sum;
            }
            store(e, tile, r, value[r]);
        }
    }
    part = sum_of_block(part);
    if (threadIdx.x == 0) norms[blockIdx.x] = part;
}

// scale <- |e|_1 / dim from the parts of `size` blocks. One block.
extern "C" __global__ void feedback_scale(const double *norms, REAL *scale, index size, index dim) {
    double part = 0;
    for (index i = threadIdx.x; i < size; i += blockDim.x) part += norms[i];
    part = sum_of_block(part);
    if (threadIdx.x == 0) *scale = part / dim;
}

// words <- signs of e; e <- e - scale sign(e)
extern "C" __global__ void feedback_ballot(REAL *__restrict__ e, const REAL *__restrict__ scale,
                                           const word *__restrict__ coins, word turn, word *__restrict__ words,
                                           index dim) {
    REAL sent = *scale;
    for (index start = first_tile(); start < dim; start += tile_stride()) {
        Tile tile = tile_at(start, dim, aligned(e));
        Four value[ROWS];
        word coin[ROWS];
        for (int r = 0; r < ROWS; ++r) {
            value[r] = load(e, tile, r);
            coin[r] = load_bits(coins, tile, r) ^ turn;
        }
        for (int r = 0; r < ROWS; ++r) {
            word bits = sign_bits(value[r], coin[r]);
            for (int c = 0; c < WIDTH; ++c) value[r].at[c] -= bit(bits, c) ? sent : -sent;
            store(e, tile, r, value[r]);
            store_bits(bits, tile, r, words);
        }
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

// A row of blocks for each chunk.
extern "C" __global__ void apply(REAL *__restrict__ x, const word *__restrict__ outcome, const REAL *__restrict__ steps,
                                 REAL shrink, int planes, index size, index dim) {
    index chunk = blockIdx.y, before = chunk * size * BITS;
    index mine = dim - before < size * BITS ? dim - before : size * BITS;
    const word *plus = outcome + chunk * planes * size, *some = plus + size;
    REAL step = steps[chunk];
    x += before;
    for (index start = first_tile(); start < mine; start += tile_stride()) {
        Tile tile = tile_at(start, mine, aligned(x));
        Four value[ROWS];
        word up[ROWS], moved[ROWS];
        for (int r = 0; r < ROWS; ++r) {
            value[r] = load(x, tile, r);
            up[r] = load_bits(plus, tile, r);
            moved[r] = planes > 1 ? load_bits(some, tile, r) : ALL;
        }
        for (int r = 0; r < ROWS; ++r) {
            for (int c = 0; c < WIDTH; ++c) {
                REAL signed_step = bit(up[r], c) ? step : -step;
                value[r].at[c] = shrink * value[r].at[c] - (bit(moved[r], c) ? signed_step : 0);
            }
            store(x, tile, r, value[r]);
        }
    }
}
