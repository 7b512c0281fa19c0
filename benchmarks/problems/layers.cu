// The fused parts of a gradient on the device; `layers.py` has their twins in NumPy. REAL is float or double.

typedef long long index;

__device__ index first() { return blockIdx.x * (index)blockDim.x + threadIdx.x; }
__device__ index stride() { return gridDim.x * (index)blockDim.x; }

// h <- max(h + b, 0), h of shape (rows, columns)
extern "C" __global__ void bias_relu(REAL *h, const REAL *b, index columns, index size) {
    for (index i = first(); i < size; i += stride()) {
        REAL value = h[i] + b[i % columns];
        h[i] = value < 0 ? 0 : value;  // a NaN stays one
    }
}

// dh <- dh where h > 0, else 0
extern "C" __global__ void relu_backward(REAL *dh, const REAL *h, index size) {
    for (index i = first(); i < size; i += stride())
        if (!(h[i] > 0)) dh[i] = 0;
}

// z <- (softmax(z + b) - onehot(y)) / rows: the gradient of the mean cross-entropy by its logits. A thread per row.
extern "C" __global__ void softmax_cross_entropy(REAL *z, const REAL *b, const index *y, index columns, index rows) {
    for (index row = first(); row < rows; row += stride()) {
        REAL *logits = z + row * columns;
        REAL most = logits[0] + b[0], sum = 0;
        for (index j = 0; j < columns; ++j) {
            REAL value = logits[j] + b[j];
            logits[j] = value;
            most = value > most ? value : most;
        }
        for (index j = 0; j < columns; ++j) {
            logits[j] = exp(logits[j] - most);
            sum += logits[j];
        }
        for (index j = 0; j < columns; ++j) logits[j] = (logits[j] / sum - (j == y[row] ? 1 : 0)) / rows;
    }
}
