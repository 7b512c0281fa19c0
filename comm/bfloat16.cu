// float32 to the words of bfloat16 on the device; `bfloat16.py` has the contract. A NaN keeps its upper bits and one
// that says that it is none of the numbers.

typedef unsigned int word;
typedef long long index;

__device__ word hashed(word w, word key) {
    word h = w * 0x9E3779B9u + key;
    h = (h ^ (h >> 16)) * 0x85EBCA6Bu;
    h = (h ^ (h >> 13)) * 0xC2B2AE35u;
    return h ^ (h >> 16);
}

extern "C" __global__ void narrow(const word *x, word key, unsigned short *words, index dim) {
    for (index i = blockIdx.x * (index)blockDim.x + threadIdx.x; i < dim; i += gridDim.x * (index)blockDim.x) {
        word bits = x[i];
        bool nan = (bits & 0x7FFFFFFFu) > 0x7F800000u;
        words[i] = (nan ? bits | 0x00400000u : bits + (hashed((word)i, key) & 0xFFFFu)) >> 16;
    }
}
