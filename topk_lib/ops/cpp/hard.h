// Hard top-k of many rows: what is asked for, and which code runs it.
#pragma once

#include <cstdint>

namespace topk {

struct Hard {
    const void* scores;          // (rows, n), float16, bfloat16, float32 or float64
    int kind;                    // 0, 1, 2, 3 in that order
    std::int64_t rows, n;
    std::int64_t row_step, step; // from row to row and from entry to entry, in entries
    std::int64_t width;          // the largest k
    const std::int64_t* ks;      // (rows,) one k a row, or null
    const std::uint8_t* valid;   // 1 for entries that may be chosen, or null
    std::int64_t valid_row_step, valid_step;
    // Null where not asked for; `values` needs `indices`.
    void* values;                // (rows, width), 0 in spare slots
    std::int64_t* indices;       // (rows, width), -1 in spare slots
    std::uint8_t* mask;          // (rows, n)
    bool smallest = false;       // choose the k smallest, NaN last
    bool by_value = false;       // in the order of the scores, ties by place, and not in the order of the places
};

// Rows begin to end - 1; false where there was no memory.
bool hard_rows(const Hard& job, std::int64_t begin, std::int64_t end);

// The k-th largest of m keys (keys.h) of scores of a kind, which are shuffled and lost.
std::int64_t kth_key(int kind, void* keys, std::int64_t m, std::int64_t k);

// Which instructions: 0 any processor's, 1 AVX2, 2 AVX-512; at most what this one has. Returns the level.
int use_level(int level);
int level_in_use();

}  // namespace topk
