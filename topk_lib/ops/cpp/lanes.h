// Many numbers at once, for each set of instructions: soft.cpp includes this file in a namespace of its own for
// each, after it has said how many BYTES a vector has and for what TARGET functions are compiled.
//
// GCC's and Clang's vectors have the operators of numbers; with another compiler a vector is one number.

template <class T>
struct Of;
#if defined(__GNUC__) && BYTES > 8
template <>
struct Of<float> {
    typedef float Vector __attribute__((vector_size(BYTES)));
    typedef uint32_t Bits __attribute__((vector_size(BYTES)));
    typedef uint16_t Halves __attribute__((vector_size(BYTES / 2)));
    typedef uint8_t Bytes __attribute__((vector_size(BYTES / 4)));
};
template <>
struct Of<double> {
    typedef double Vector __attribute__((vector_size(BYTES)));
    typedef uint64_t Bits __attribute__((vector_size(BYTES)));
    typedef uint8_t Bytes __attribute__((vector_size(BYTES / 8)));
};
#define CONVERT(x, Type) __builtin_convertvector(x, Type)
#else
template <>
struct Of<float> {
    using Vector = float;
    using Bits = uint32_t;
    using Halves = uint16_t;
    using Bytes = uint8_t;
};
template <>
struct Of<double> {
    using Vector = double;
    using Bits = uint64_t;
    using Bytes = uint8_t;
};
#define CONVERT(x, Type) static_cast<Type>(x)
#endif

template <class T>
using Vec = typename Of<T>::Vector;
template <class T>
constexpr int64_t width = sizeof(Vec<T>) / sizeof(T);

template <class To, class From>
TARGET INLINE To as(From from) {
    static_assert(sizeof(To) == sizeof(From), "the same bits");
    To to;
    std::memcpy(&to, &from, sizeof(to));
    return to;
}

template <class T>
TARGET INLINE Vec<T> all(T x) {
    return Vec<T>{} + x;
}

// e^x for |x| <= 87 (float32) or 708 (float64), at most 1.05 spacings of the numbers off: x is the nearest whole
// number of times ln 2, whose power of two is put together as bits, and a rest of at most ln(2) / 2, for which
// there is a polynomial (the least largest relative error there: 3e-9 and 4e-18).
TARGET INLINE Vec<float> exponential(Vec<float> x) {
    const Vec<float> shifted = x * 1.44269504f + 12582912.0f, times = shifted - 12582912.0f;
    const Vec<float> r = x - times * 0.693359375f - times * -2.12194440e-4f;
    const Vec<float> curve =
        (((0.00138145314f * r + 0.00836874594f) * r + 0.0416683910f) * r + 0.166665204f) * r + 0.499999934f;
    return (curve * (r * r) + r + 1.0f) * as<Vec<float>>((as<Of<float>::Bits>(shifted) << 23) + 0x3f800000u);
}
TARGET INLINE Vec<double> exponential(Vec<double> x) {
    const Vec<double> shifted = x * 1.4426950408889634 + 6755399441055744.0, times = shifted - 6755399441055744.0;
    const Vec<double> r = x - times * 6.93147180369123816490e-01 - times * 1.90821492927058770002e-10;
    Vec<double> curve = r * 2.50000347532476321e-8 + 2.76303083215722013e-7;
    curve = (((curve * r + 2.75575867649945767e-6) * r + 2.48014929434388055e-5) * r + 1.98412695057995125e-4) * r;
    curve = (((curve + 1.38888889437663696e-3) * r + 8.33333333349497751e-3) * r + 4.16666666665297021e-2) * r;
    curve = (curve + 0.166666666666664115) * r + 0.500000000000001067;
    return (curve * (r * r) + r + 1.0) *
           as<Vec<double>>((as<Of<double>::Bits>(shifted) << 52) + 0x3ff0000000000000u);
}

template <class T>
TARGET INLINE Vec<T> magnitude(Vec<T> x) {
    return x < -x ? -x : x;
}

template <class T>
TARGET INLINE T front(Vec<T> x) {
    T first;
    std::memcpy(&first, &x, sizeof(T));
    return first;
}

// The sum of a vector's numbers.
template <class T>
TARGET INLINE double sum(Vec<T> x) {
    T each[width<T>];
    std::memcpy(each, &x, sizeof(x));
    double four[4] = {};
    for (int64_t i = 0; i < width<T>; ++i) four[i & 3] += each[i];
    return (four[0] + four[1]) + (four[2] + four[3]);
}

// Vectors that are summed number by number before the sums are added up in float64.
constexpr int64_t together = 32;

// Numbers i, i + 1, ... of an array; those beyond its end are `beyond`.
template <class T>
TARGET INLINE Vec<T> read(const T* from, int64_t i, int64_t n, T beyond) {
    Vec<T> x;
    if (n - i >= width<T>) {
        std::memcpy(&x, from + i, sizeof(x));
    } else {
        x = all<T>(beyond);
        std::memcpy(&x, from + i, std::size_t(n - i) * sizeof(T));
    }
    return x;
}
template <class T>
TARGET INLINE void write(T* to, int64_t i, int64_t n, Vec<T> x) {
    std::memcpy(to + i, &x, n - i >= width<T> ? sizeof(x) : std::size_t(n - i) * sizeof(T));
}

// From float16 and bfloat16 to float32, and back to the nearest, as the processor does it where it can.
TARGET INLINE Vec<float> widened(Of<float>::Halves halves, int kind) {
    using Bits = Of<float>::Bits;
    const Bits bits = CONVERT(halves, Bits);
    if (kind == 1) return as<Vec<float>>(bits << 16);
    const Bits sign = (bits & 0x8000u) << 16, rest = bits & 0x7fffu;
    // Below 2^-14 a float16 is a whole number of 2^-24.
    const Vec<float> small = (as<Vec<float>>(rest + 0x4b000000u) - 8388608.0f) * 0x1p-24f;
    const Bits normal = (rest << 13) + (112u << 23), endless = (rest << 13) + (224u << 23);
    const Vec<float> found = rest < 0x400u   ? small
                             : rest < 0x7c00u ? as<Vec<float>>(normal)
                                              : as<Vec<float>>(endless);
    return as<Vec<float>>(as<Bits>(found) | sign);
}
TARGET INLINE Of<float>::Halves narrowed(Vec<float> x, int kind) {
    using Bits = Of<float>::Bits;
    using Halves = Of<float>::Halves;
    const Bits bits = as<Bits>(x), zero{};
    const Bits rest = bits & 0x7fffffffu;
    if (kind == 1) {
        const Bits near = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
        const Bits found = rest > 0x7f800000u ? zero + 0x7fc0u : near;
        return CONVERT(found, Halves);
    }
    const Bits near = (rest - (112u << 23) + 0xfffu + ((rest >> 13) & 1u)) >> 13;
    const Bits small = as<Bits>(as<Vec<float>>(rest) + 0.5f) - 0x3f000000u;  // rounds to whole numbers of 2^-24
    const Bits found = rest < (113u << 23)    ? small
                       : rest < 0x477ff000u   ? near
                       : rest <= 0x7f800000u  ? zero + 0x7c00u
                                              : zero + 0x7e00u;
    const Bits halves = found | ((bits >> 16) & 0x8000u);
    return CONVERT(halves, Halves);
}

// x where entries i, i + 1, ... are there and valid, else `none`.
template <class T>
TARGET INLINE Vec<T> marked(const uint8_t* valid, int64_t i, int64_t n, Vec<T> x, T none) {
    using Bits = typename Of<T>::Bits;
    typename Of<T>::Bytes bytes;
    if (valid && n - i >= width<T>) {
        std::memcpy(&bytes, valid + i, sizeof(bytes));
    } else {
        uint8_t each[width<T>] = {};
        for (int64_t j = 0; j < width<T> && i + j < n; ++j) each[j] = valid ? valid[i + j] : 1;
        std::memcpy(&bytes, each, sizeof(bytes));
    }
    const Bits there = CONVERT(bytes, Bits), zero{};
    return there != zero ? x : all<T>(none);
}
// Entries i, i + 1, ... of a row of the scores' kind; `none` where there is none that counts.
template <class T>
TARGET INLINE Vec<T> entries(const void* row, int kind, const uint8_t* valid, int64_t i, int64_t n, T none) {
    constexpr int64_t w = width<T>;
    const int64_t room = n - i, bytes = sizeof(T) == 4 && kind < 2 ? 2 : sizeof(T);
    const char* from = static_cast<const char*>(row) + i * bytes;
    char last[sizeof(Vec<T>)] = {};
    if (room < w) {
        std::memcpy(last, from, std::size_t(room * bytes));
        from = last;
    }
    Vec<T> x;
    if constexpr (sizeof(T) == 4) {
        if (kind < 2) {
            Of<float>::Halves halves;
            std::memcpy(&halves, from, sizeof(halves));
            x = widened(halves, kind);
        } else {
            std::memcpy(&x, from, sizeof(x));
        }
    } else {
        std::memcpy(&x, from, sizeof(x));
    }
    return room >= w && !valid ? x : marked<T>(valid, i, n, x, none);
}
template <class T>
TARGET INLINE void put(void* row, int kind, int64_t i, int64_t n, Vec<T> x) {
    if constexpr (sizeof(T) == 4) {
        if (kind < 2) {
            const Of<float>::Halves halves = narrowed(x, kind);
            std::memcpy(static_cast<uint16_t*>(row) + i, &halves,
                        n - i >= width<T> ? sizeof(halves) : std::size_t(n - i) * 2);
            return;
        }
    }
    write(static_cast<T*>(row), i, n, x);
}
