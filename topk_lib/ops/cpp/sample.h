// One of the k most likely entries of each row: what is asked for.
#pragma once

#include "hard.h"

namespace topk {

struct Sample {
    Hard hard;                    // scores and k
    double temperature;           // above 0
    double top_p, min_p;          // 1 and 0 leave all
    const std::int64_t* seeds;    // (rows,); first_seed + row where null
    std::int64_t first_seed;
    std::int64_t* columns;        // (rows,), what is drawn; -1 where nothing can be
};

// Rows begin to end - 1; false where there was no memory.
bool sample_rows(const Sample& rule, std::int64_t begin, std::int64_t end);

}  // namespace topk
