// The Python module topk_lib.ops._native: pointers and sizes as whole numbers, so that no header of PyTorch is
// needed, and only Python's stable interface, so that one build serves every Python from 3.10 on.
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <atomic>
#include <cstdlib>

#include "hard.h"
#include "sample.h"
#include "soft.h"

namespace {

using std::int64_t;

constexpr int64_t alone = 1 << 15;  // entries that are sooner done than shared, or than the lock is given back

// GNU's OpenMP, as PyTorch runs it: `task(data)` on so many threads. With PyTorch's own threads there are never
// more threads than it was told to take, and they are awake already after its operators.
using Parallel = void (*)(void (*task)(void*), void* data, unsigned threads, unsigned flags);
Parallel parallel = nullptr;

// Rows are taken as threads become free.
template <class Job>
struct Shared {
    const Job* job;
    bool (*run)(const Job&, int64_t, int64_t);
    int64_t rows, step;
    std::atomic<int64_t> next{0};
    std::atomic<bool> failed{false};
    static void work(void* data) {
        auto& own = *static_cast<Shared*>(data);
        for (;;) {
            const int64_t begin = own.next.fetch_add(own.step);
            if (begin >= own.rows) return;
            const int64_t end = begin + own.step < own.rows ? begin + own.step : own.rows;
            if (!own.run(*own.job, begin, end)) own.failed = true;
        }
    }
};

template <class Job>
PyObject* finish(const Job& job, bool (*run)(const Job&, int64_t, int64_t), int64_t rows, int64_t n, int64_t threads) {
    if (PyErr_Occurred()) return nullptr;
    bool done = true;
    if (rows * n <= alone) {
        done = run(job, 0, rows);
    } else {
        PyThreadState* state = PyEval_SaveThread();  // other Python threads go on
        const int64_t step = n < alone / 2 ? alone / 2 / n : 1;
        if (threads > 1 && parallel && rows > step) {
            Shared<Job> shared{&job, run, rows, step};
            parallel(Shared<Job>::work, &shared, unsigned(threads), 0);
            done = !shared.failed;
        } else {
            done = run(job, 0, rows);
        }
        PyEval_RestoreThread(state);
    }
    if (!done) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

template <class T>
T* pointer(PyObject* number) {
    return static_cast<T*>(PyLong_AsVoidPtr(number));
}

int64_t whole(PyObject* number) { return int64_t(PyLong_AsLongLong(number)); }

// hard(threads, scores, kind, rows, n, row_step, step, width, ks, valid, valid_row_step, valid_step, values,
//      indices, mask, smallest, by_value), as in hard.h; 0 stands for null.
PyObject* hard(PyObject*, PyObject* const* args, Py_ssize_t count) {
    if (count != 17) {
        PyErr_SetString(PyExc_TypeError, "hard takes 17 whole numbers");
        return nullptr;
    }
    const topk::Hard job{pointer<void>(args[1]), int(whole(args[2])), whole(args[3]), whole(args[4]),
                         whole(args[5]), whole(args[6]), whole(args[7]), pointer<int64_t>(args[8]),
                         pointer<std::uint8_t>(args[9]), whole(args[10]), whole(args[11]),
                         pointer<void>(args[12]), pointer<int64_t>(args[13]), pointer<std::uint8_t>(args[14]),
                         whole(args[15]) != 0, whole(args[16]) != 0};
    return finish(job, topk::hard_rows, job.rows, job.n, whole(args[0]));
}

// sample(threads, scores, kind, rows, n, k, temperature, top_p, min_p, seeds, first_seed, columns), as in sample.h.
PyObject* sample(PyObject*, PyObject* const* args, Py_ssize_t count) {
    if (count != 12) {
        PyErr_SetString(PyExc_TypeError, "sample takes 12 numbers");
        return nullptr;
    }
    const int64_t n = whole(args[4]);
    const topk::Sample rule{{pointer<void>(args[1]), int(whole(args[2])), whole(args[3]), n, n, 1, whole(args[5]),
                             nullptr, nullptr, 0, 0, nullptr, nullptr, nullptr},
                            PyFloat_AsDouble(args[6]), PyFloat_AsDouble(args[7]), PyFloat_AsDouble(args[8]),
                            pointer<int64_t>(args[9]), whole(args[10]), pointer<int64_t>(args[11])};
    return finish(rule, topk::sample_rows, rule.hard.rows, n, whole(args[0]));
}

// A row of soft top-k is several times the work of choosing.
constexpr int64_t slower = 4;

topk::Rows rows_in(PyObject* const* args) {
    return {pointer<void>(args[0]), int(whole(args[1])), whole(args[2]), whole(args[3]), int(whole(args[4])),
            PyFloat_AsDouble(args[5]), pointer<double>(args[6]), pointer<std::uint8_t>(args[7])};
}

// soft(threads, scores, kind, rows, n, link, temperature, temperatures, valid, k, ks, weights, taus), as in soft.h.
PyObject* soft(PyObject*, PyObject* const* args, Py_ssize_t count) {
    if (count != 13) {
        PyErr_SetString(PyExc_TypeError, "soft takes 13 numbers");
        return nullptr;
    }
    const topk::Soft job{rows_in(args + 1), PyFloat_AsDouble(args[9]), pointer<double>(args[10]),
                         pointer<void>(args[11]), pointer<void>(args[12])};
    return finish(job, topk::soft_rows, job.in.rows, slower * job.in.n, whole(args[0]));
}

// soft_backward(threads, scores, kind, rows, n, link, temperature, temperatures, valid, taus, grads, out, of_k,
//               of_temperature), as in soft.h.
PyObject* soft_backward(PyObject*, PyObject* const* args, Py_ssize_t count) {
    if (count != 14) {
        PyErr_SetString(PyExc_TypeError, "soft_backward takes 14 numbers");
        return nullptr;
    }
    const topk::SoftBackward job{rows_in(args + 1), pointer<void>(args[9]), pointer<void>(args[10]),
                                 pointer<void>(args[11]), pointer<double>(args[12]), pointer<double>(args[13])};
    return finish(job, topk::soft_backward_rows, job.in.rows, slower * job.in.n, whole(args[0]));
}

// exponentials(numbers, out, n, wide), as in soft.h.
PyObject* exponentials(PyObject*, PyObject* const* args, Py_ssize_t count) {
    if (count != 4) {
        PyErr_SetString(PyExc_TypeError, "exponentials takes 4 whole numbers");
        return nullptr;
    }
    const void* numbers = pointer<void>(args[0]);
    void* out = pointer<void>(args[1]);
    const int64_t n = whole(args[2]), wide = whole(args[3]);
    if (PyErr_Occurred()) return nullptr;
    topk::exponentials(numbers, out, n, wide != 0);
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

using Many = PyObject* (*)(PyObject*, PyObject* const*, Py_ssize_t);
PyCFunction fast(Many method) { return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(method)); }

PyMethodDef methods[] = {
    {"hard", fast(hard), METH_FASTCALL, "Hard top-k: see hard.h."},
    {"sample", fast(sample), METH_FASTCALL, "One of the k most likely: see sample.h."},
    {"soft", fast(soft), METH_FASTCALL, "Soft top-k: see soft.h."},
    {"soft_backward", fast(soft_backward), METH_FASTCALL, "The gradients of soft top-k: see soft.h."},
    {"exponentials", fast(exponentials), METH_FASTCALL, "The exponential function of soft top-k: see soft.h."},
    {"share", share, METH_O, "The address of GOMP_parallel, or 0 for one thread."},
    {"level", level, METH_O, "Use at most these instructions: 0 any processor's, 1 AVX2, 2 AVX-512. Returns which."},
    {"named", named, METH_NOARGS, "Whether the variable TOPK_BACKEND is set."},
    {nullptr, nullptr, 0, nullptr}};

PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_native", "The compiled operators.", -1, methods,
                          nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__native() { return PyModule_Create(&definition); }
