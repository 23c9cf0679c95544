// Soft top-k of many rows, and its gradients: what is asked for.
#pragma once

#include <cstdint>

namespace topk {

// Scores as hard.h has them, row after row; the numbers of the arithmetic are float64 where they are, else float32.
struct Rows {
    const void* scores;           // (rows, n)
    int kind;                     // 0 float16, 1 bfloat16, 2 float32, 3 float64
    std::int64_t rows, n;         // n above 0
    int link;                     // 0 sigmoid, 1 laplace, 2 clip, 3 exp
    double temperature;           // of every row where `temperatures` is null
    const double* temperatures;   // (rows,) or null
    const std::uint8_t* valid;    // (rows, n), 1 for entries that may have weight; or null
};

struct Soft {
    Rows in;
    double k;                     // of every row where `ks` is null
    const double* ks;             // (rows,) or null
    void* weights;                // (rows, n), kind of the scores
    void* taus;                   // (rows, 2), whose sum is tau: float32 or float64; or null
};

struct SoftBackward {
    Rows in;
    const void* taus;             // as Soft left them
    const void* grads;            // (rows, n), of the weights
    void* out;                    // (rows, n), of the scores
    double *of_k, *of_temperature;  // (rows,)
};

// Rows begin to end - 1; false where there was no memory.
bool soft_rows(const Soft& job, std::int64_t begin, std::int64_t end);
bool soft_backward_rows(const SoftBackward& job, std::int64_t begin, std::int64_t end);

// The exponential function they use, of n float32 numbers of at most 87, or float64 numbers of at most 708.
void exponentials(const void* numbers, void* out, std::int64_t n, bool wide);

}  // namespace topk
