// The Python module topk_lib.ops._native: pointers and sizes as whole numbers, so that no header of PyTorch is
// needed, and only Python's stable interface, so that one build serves every Python from 3.10 on.
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <atomic>
#include <cstdlib>

#include "hard.h"

namespace {

using std::int64_t;

constexpr int64_t alone = 1 << 15;  // entries that are sooner done than shared, or than the lock is given back

// GNU's OpenMP, as PyTorch runs it: `task(data)` on so many threads. With PyTorch's own threads there are never
// more threads than it was told to take, and they are awake already after its operators.
using Parallel = void (*)(void (*task)(void*), void* data, unsigned threads, unsigned flags);
Parallel parallel = nullptr;

struct Shared {
    const topk::Hard* job;
    int64_t step;
    std::atomic<int64_t> next{0};
    std::atomic<bool> failed{false};
};

// Rows are taken as threads become free.
void work(void* data) {
    auto& shared = *static_cast<Shared*>(data);
    const int64_t rows = shared.job->rows;
    for (;;) {
        const int64_t begin = shared.next.fetch_add(shared.step);
        if (begin >= rows) return;
        const int64_t end = begin + shared.step < rows ? begin + shared.step : rows;
        if (!topk::hard_rows(*shared.job, begin, end)) shared.failed = true;
    }
}

template <class T>
T* pointer(PyObject* number) {
    return static_cast<T*>(PyLong_AsVoidPtr(number));
}

// hard(threads, scores, kind, rows, n, row_step, step, width, ks, valid, valid_row_step, valid_step, values,
//      indices, mask), as in hard.h; 0 stands for null.
PyObject* hard(PyObject*, PyObject* const* args, Py_ssize_t count) {
    if (count != 15) {
        PyErr_SetString(PyExc_TypeError, "hard takes 15 whole numbers");
        return nullptr;
    }
    auto number = [args](int i) { return int64_t(PyLong_AsLongLong(args[i])); };
    const int64_t threads = number(0);
    topk::Hard job{pointer<void>(args[1]), int(number(2)), number(3), number(4), number(5), number(6), number(7),
                   pointer<int64_t>(args[8]), pointer<std::uint8_t>(args[9]), number(10), number(11),
                   pointer<void>(args[12]), pointer<int64_t>(args[13]), pointer<std::uint8_t>(args[14])};
    if (PyErr_Occurred()) return nullptr;
    bool done = true;
    if (job.rows * job.n <= alone) {
        done = topk::hard_rows(job, 0, job.rows);
    } else {
        PyThreadState* state = PyEval_SaveThread();  // other Python threads go on
        const int64_t step = job.n < alone / 2 ? alone / 2 / job.n : 1;
        if (threads > 1 && parallel && job.rows > step) {
            Shared shared{&job, step};
            parallel(work, &shared, unsigned(threads), 0);
            done = !shared.failed;
        } else {
            done = topk::hard_rows(job, 0, job.rows);
        }
        PyEval_RestoreThread(state);
    }
    if (!done) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

PyObject* share(PyObject*, PyObject* address) {
    parallel = reinterpret_cast<Parallel>(PyLong_AsVoidPtr(address));
    if (PyErr_Occurred()) return nullptr;
    Py_RETURN_NONE;
}

PyObject* level(PyObject*, PyObject* wanted) {
    const long most = PyLong_AsLong(wanted);
    if (PyErr_Occurred()) return nullptr;
    return PyLong_FromLong(topk::use_level(int(most)));
}

PyObject* named(PyObject*, PyObject*) { return PyBool_FromLong(std::getenv("TOPK_BACKEND") != nullptr); }

PyMethodDef methods[] = {
    {"hard", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(hard)), METH_FASTCALL,
     "Hard top-k: see hard.h."},
    {"share", share, METH_O, "The address of GOMP_parallel, or 0 for one thread."},
    {"level", level, METH_O, "Use at most these instructions: 0 any processor's, 1 AVX2, 2 AVX-512. Returns which."},
    {"named", named, METH_NOARGS, "Whether the variable TOPK_BACKEND is set."},
    {nullptr, nullptr, 0, nullptr}};

PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_native", "The compiled operators.", -1, methods,
                          nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__native() { return PyModule_Create(&definition); }
