// What the compiled operations of vectors.py begin with: their arguments. T is float or double, TYPE its number in NumPy.

#define PY_SSIZE_T_CLEAN
#define NPY_NO_DEPRECATED_API NPY_2_0_API_VERSION
#include <Python.h>
#include <numpy/arrayobject.h>
#include <tgmath.h>

// In shorter vectors a pass is over before another thread would have taken Python's lock.
#define LONG_PASS 16384

// The data of an array of T with so many dimensions, contiguous and of `size` columns; NULL and an error for any other.
static T *data(PyObject *object, int dimensions, npy_intp size)
{
    PyArrayObject *array = (PyArrayObject *)object;
    if (!PyArray_Check(object) || PyArray_TYPE(array) != TYPE || !PyArray_ISCARRAY(array)
        || PyArray_NDIM(array) != dimensions) {
        PyErr_Format(PyExc_TypeError, "%R is no contiguous array of numbers like the last one's", object);
        return NULL;
    }
    if (PyArray_DIM(array, dimensions - 1) != size) {
        PyErr_SetString(PyExc_ValueError, "the vectors differ in size");
        return NULL;
    }
    return PyArray_DATA(array);
}

// The same of (weights, rows), of which there are `count`; 0 and an error for any other.
static int mean_data(PyObject *object, npy_intp size, T **weights, T **rows, npy_intp *count)
{
    if (!PyTuple_Check(object) || PyTuple_GET_SIZE(object) != 2 || !PyArray_Check(PyTuple_GET_ITEM(object, 0))) {
        PyErr_SetString(PyExc_TypeError, "a mean is (weights, rows)");
        return 0;
    }
    *count = PyArray_SIZE((PyArrayObject *)PyTuple_GET_ITEM(object, 0));
    *weights = data(PyTuple_GET_ITEM(object, 0), 1, *count);
    *rows = *weights ? data(PyTuple_GET_ITEM(object, 1), 2, size) : NULL;
    if (*rows && PyArray_DIM((PyArrayObject *)PyTuple_GET_ITEM(object, 1), 0) != *count) {
        PyErr_SetString(PyExc_ValueError, "the vectors differ in size");
        return 0;
    }
    return *rows != NULL;
}

// sum <- sum_r weights[r] rows[r], of `length` columns from one on; rows are `size` apart.
static void sum_rows(const T *weights, const T *rows, npy_intp count, npy_intp size, npy_intp length, T *sum)
{
    for (npy_intp i = 0; i < length; ++i)
        sum[i] = count ? weights[0] * rows[i] : 0;
    for (npy_intp r = 1; r < count; ++r)
        for (npy_intp i = 0; i < length; ++i)
            sum[i] += weights[r] * rows[r * size + i];
}
