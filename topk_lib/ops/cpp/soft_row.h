// Soft top-k of a row by Newton's method, as topk_lib/ops/soft_cpu.py explains it; and its gradients.
//
// soft.cpp includes this file after lanes.h, in a namespace for each set of instructions. Each score s becomes one
// number of a row, u = (s - pivot) / temperature or its exponential, in the place where its weight will stand. From
// it and from one number for the row, which depends on the threshold, the weight takes a few operations.

enum Link { sigmoid, laplace, clip, expo };

template <class T>
constexpr double far_away = sizeof(T) == 4 ? 60 : 300;  // beyond it a weight is 0 or 1

template <class T>
constexpr double far_slope = sizeof(T) == 4 ? 87 : 700;  // beyond it nothing moves
// Quotients by a temperature are held in T; beyond these ends weights no longer change (soft_torch.held).
template <class T>
inline double held(double temperature) {
    using Limits = std::numeric_limits<T>;
    return std::fmin(std::fmax(temperature, 4 * double(Limits::min())), double(Limits::max()) / 1024);
}

// What stands for the score with this u; for an entry that is not there.
template <int link, class T>
TARGET INLINE Vec<T> kept(Vec<T> u) {
    if constexpr (link == clip) return u;
    return exponential(link == expo ? u : -u);
}
template <int link, class T>
constexpr T nothing = link == clip   ? -std::numeric_limits<T>::infinity()
                      : link == expo ? T(0)
                                     : std::numeric_limits<T>::infinity();
// The number for the row where tau = pivot + temperature * delta.
template <int link>
inline double at_threshold(double delta) {
    return link == clip ? delta : std::exp(link == expo ? -delta : delta);
}
template <int link, class T>
TARGET INLINE Vec<T> weight(Vec<T> x, Vec<T> c) {
    const Vec<T> zero{}, one = all<T>(1);
    if constexpr (link == clip) {
        const Vec<T> above = x - c > zero ? x - c : zero;
        return above < one ? above : one;
    }
    const Vec<T> q = x * c;
    if constexpr (link == sigmoid) return one / (one + q);
    if constexpr (link == laplace) return q > one ? T(0.5) / q : one - T(0.5) * q;
    return q < one ? q : one;
}
// How fast a weight falls as delta grows; the same from z, whose digits it keeps where weights are near 1.
template <int link, class T>
TARGET INLINE Vec<T> slope(Vec<T> w) {
    const Vec<T> zero{}, one = all<T>(1);
    if constexpr (link == sigmoid) return w - w * w;
    if constexpr (link == laplace) return w < one - w ? w : one - w;
    if constexpr (link == clip) return w > zero ? (w < one ? one : zero) : zero;
    return w < one ? w : zero;
}

template <int link, class T>
TARGET INLINE Vec<T> slope_at(Vec<T> z) {
    const Vec<T> zero{}, one = all<T>(1);
    if constexpr (link == clip) return z > zero ? (z < one ? one : zero) : zero;
    const T far = T(far_slope<T>);
    const Vec<T> size = magnitude<T>(z), e = exponential(-(size < far ? size : all(far)));
    if constexpr (link == sigmoid) return e / ((one + e) * (one + e));
    if constexpr (link == laplace) return T(0.5) * e;
    return z < zero ? e : zero;
}

// What a weight lacks to 1, with the digits that 1 - w has lost where w is near 1.
template <int link, class T>
TARGET INLINE Vec<T> lack(Vec<T> x, Vec<T> c, Vec<T> w) {
    const Vec<T> one = all<T>(1), q = x * c;
    return w > T(0.5) ? (link == sigmoid ? q * w : T(0.5) * q) : one - w;
}

struct Sums {
    double weights, slopes;
};

// The sums over a row at a threshold. With scores given, their numbers are written to x first. `most`: of `count`
// entries that are there most weigh more than 1/2, and what they lack to 1 is added up.
template <int link, bool first, bool most, class T>
TARGET INLINE Sums sums_of(double count, T* x, int64_t n, double at, const Rows* in = nullptr,
                           const void* scores = nullptr, const uint8_t* valid = nullptr, T pivot = 0, T inverse = 0) {
    const T far = T(far_away<T>);
    const Vec<T> c = all(T(at));
    Sums found{};
    for (int64_t start = 0; start < n; start += together * width<T>) {
        const int64_t end = n - start < together * width<T> ? n : start + together * width<T>;
        Vec<T> weights{}, slopes{};
        for (int64_t i = start; i < end; i += width<T>) {
            Vec<T> own;
            if constexpr (first) {
                const Vec<T> s = entries<T>(scores, in->kind, valid, i, n, std::numeric_limits<T>::infinity());
                Vec<T> u = (s - pivot) * inverse;
                u = u < -far ? all(-far) : u;
                u = u > far ? all(far) : u;
                own = kept<link, T>(u);
                own = s - s == Vec<T>{} ? own : all(nothing<link, T>);  // infinite, NaN
                write(x, i, n, own);
            } else {
                own = read<T>(x, i, n, nothing<link, T>);
            }
            const Vec<T> w = weight<link, T>(own, c);
            if constexpr (most) {
                const Vec<T> rest = own < nothing<link, T> ? lack<link, T>(own, c, w) : Vec<T>{};
                weights += rest;
                slopes += link == sigmoid ? w * rest : (w < rest ? w : rest);
            } else {
                weights += w;
                slopes += slope<link, T>(w);
            }
        }
        found.weights += sum<T>(weights);
        found.slopes += sum<T>(slopes);
    }
    if constexpr (most) found.weights = count - found.weights;
    return found;
}
template <int link, bool first, class T, class... More>
TARGET INLINE Sums sums(double k, double count, T* x, int64_t n, double at, More... more) {
    if constexpr (link < clip)
        if (2 * k > count) return sums_of<link, first, true>(count, x, n, at, more...);
    return sums_of<link, first, false>(count, x, n, at, more...);
}

// How far delta should move. Newton's step; far from the root that of a function that is more of a line: the
// logarithm of the odds, or what is exact as long as the same entries have weight 1.
template <int link>
inline double move(Sums now, double k, double count) {
    const double excess = now.weights - k, size = std::fabs(excess);
    if (link == expo) return -std::log1p(-excess / now.slopes);
    if (link == clip || size < 0.2 * std::fmin(k, count - k)) return excess / now.slopes;
    const double rest = count - now.weights;
    return std::log(now.weights * (count - k) / (k * rest)) * now.weights * rest / (count * now.slopes);
}

// Newton's method inside a bracket, from delta = 0, where the sums are known.
template <int link, class T>
TARGET INLINE double solved(T* x, int64_t n, double k, double count, Sums now) {
    const double eps = sizeof(T) == 4 ? 1e-7 : 1e-15;
    double low = -far_away<T>, high = far_away<T>, delta = 0, best = 0;
    double before = std::numeric_limits<double>::infinity(), smallest = before;
    for (int step = 0; step < 100; ++step) {
        const double excess = now.weights - k, size = std::fabs(excess);
        const double newton = delta + move<link>(now, k, count);
        const bool inside = newton > low && newton < high;
        // No weight is further off than the sum; and with |f''| <= f' a step leaves delta off by half its square.
        const double least = eps * std::fmin(std::fmin(k, count - k), 1);
        if (link < clip && excess * excess <= 2 * eps * now.slopes * now.slopes) return inside ? newton : delta;
        const double fine = eps * std::fmax(std::fabs(delta), 1);  // what numbers like delta can tell
        if (size <= (link < clip ? least : std::fmax(2 * least, fine * now.slopes))) return delta;
        if (size < smallest) {
            smallest = size;
            best = delta;
        }
        (excess > 0 ? low : high) = delta;
        // Outside or slow: halve the bracket.
        double next = T(inside && size < before / 2 ? newton : (low + high) / 2);
        if (!(next > low && next < high)) next = T((low + high) / 2);
        if (!(next > low && next < high)) break;  // nothing lies between
        before = size;
        delta = next;
        now = sums<link, false>(k, count, x, n, at_threshold<link>(delta));
    }
    return best;
}

// The quantile of the normal distribution, nearly: Tukey's lambda.
inline double normal_quantile(double share) { return 4.91 * (std::pow(share, 0.14) - std::pow(1 - share, 0.14)); }

// A row with 0 < k < n, from a start as if scores were normal: of these, less a number with the density f', the
// share above the threshold is k / n, and both together are about normal. False where a score is infinite or NaN,
// or the start is too far off to reckon from.
//
// quantile: the normal one of k / n. Leaves the row's numbers in x.
template <int link, class T>
TARGET INLINE bool from_normal(const Rows& in, const void* scores, double k, double t, double quantile, T* x,
                               T& pivot, double& delta) {
    constexpr double mean[4] = {0, 0, 0.5, -1}, variance[4] = {3.29, 2, 0.083, 1};  // of f'
    const int64_t n = in.n;
    // Scores may be large and their differences small: only these are squared.
    const T first = front<T>(entries<T>(scores, in.kind, nullptr, 0, n, T(0)));
    double total = 0, squares = 0;
    for (int64_t start = 0; start < n; start += together * width<T>) {
        const int64_t end = n - start < together * width<T> ? n : start + together * width<T>;
        Vec<T> one{}, two{};
        for (int64_t i = start; i < end; i += width<T>) {
            const Vec<T> y = entries<T>(scores, in.kind, nullptr, i, n, first) - first;
            one += y;
            two += y * y;
        }
        total += sum<T>(one);
        squares += sum<T>(two);
    }
    total /= double(n);
    const double spread = (squares / double(n) - total * total) / (t * t);
    if (!(spread < 64)) return false;
    pivot = T(first + total - t * (mean[link] + std::sqrt(std::fmax(spread, 0) + variance[link]) * quantile));
    if (!std::isfinite(pivot)) return false;
    const uint8_t* all_valid = nullptr;
    const Sums now =
        sums<link, true>(k, double(n), x, n, at_threshold<link>(0), &in, scores, all_valid, pivot, T(1 / t));
    delta = solved<link>(x, n, k, double(n), now);
    return std::fabs(delta) < 16;
}

// The keys of a row, and how many of each kind.
struct Kinds {
    int64_t live, tops, bottoms, nans;
};
template <class S>
TARGET Kinds kinds(const void* scores, const uint8_t* valid, int64_t n, void* keys) {
    using Key = typename S::Key;
    const Key* bits = static_cast<const Key*>(scores);
    Key* out = static_cast<Key*>(keys);
    if (valid) {
        for (int64_t i = 0; i < n; ++i) out[i] = valid[i] ? S::key(bits[i]) : never<Key>;
    } else {
        for (int64_t i = 0; i < n; ++i) out[i] = S::key(bits[i]);
    }
    Kinds found;
    int64_t above;
    count(out, n, S::endless, found.nans, found.tops);
    count(out, n, Key(-S::endless), above, found.bottoms);
    found.live = above - found.nans - found.tops;
    return found;
}

// The rank-th largest of the keys, which are lost, as a score.
template <class T>
TARGET T ranked(int kind, void* keys, int64_t n, int64_t rank) {
    const int64_t key = kth_key(kind, keys, n, rank);
    const uint64_t sign = uint64_t(1) << (kind < 2 ? 15 : 8 * sizeof(T) - 1);
    const uint64_t bits = key < 0 ? uint64_t(-key) | sign : uint64_t(key);
    if constexpr (sizeof(T) == 8) {
        return as<T>(bits);
    } else if (kind == 2) {
        return as<T>(uint32_t(bits));
    } else {
        return front<T>(widened(Of<float>::Halves{} + uint16_t(bits), kind));
    }
}

inline double within(double share) { return share < 0 ? 0 : share > 1 ? 1 : share; }

template <int link, class T>
TARGET void soft_rows(const Soft& job, int64_t begin, int64_t end, void* work) {
    const Rows& in = job.in;
    const int64_t n = in.n, bytes = in.kind < 2 ? 2 : sizeof(T);
    constexpr T infinity = std::numeric_limits<T>::infinity();
    double last_k = -1, quantile = 0;
    for (int64_t r = begin; r < end; ++r) {
        const void* scores = static_cast<const char*>(in.scores) + r * n * bytes;
        void* out = static_cast<char*>(job.weights) + r * n * bytes;
        T* x = static_cast<T*>(in.kind < 2 ? work : out);
        const uint8_t* valid = in.valid ? in.valid + r * n : nullptr;
        const double k = job.ks ? job.ks[r] : job.k, t = held<T>(in.temperatures ? in.temperatures[r] : in.temperature);
        T pivot = 0;
        double delta = 0;
        bool plain = !valid && 0 < k && k < double(n);
        if (plain) {
            if (k != last_k) quantile = normal_quantile((last_k = k) / double(n));
            plain = from_normal<link>(in, scores, k, t, quantile, x, pivot, delta);
        }
        bool solving = plain;
        double flat = 0, top = 0, bottom = 0;
        if (!plain) {
            const Kinds of = in.kind == 3   ? kinds<Float64>(scores, valid, n, out)
                             : in.kind == 2 ? kinds<Float32>(scores, valid, n, out)
                             : in.kind == 1 ? kinds<BFloat16>(scores, valid, n, out)
                                            : kinds<Float16>(scores, valid, n, out);
            const double left = k - double(of.tops), count = double(of.live);  // what +inf takes is not there for others
            solving = 0 < left && left < count && !of.nans;
            if (solving) {
                pivot = ranked<T>(in.kind, out, n, int64_t(std::ceil(left)) + of.tops);
                const Sums now = sums<link, true>(left, count, x, n, at_threshold<link>(0), &in, scores, valid, pivot,
                                                  T(1 / t));
                delta = solved<link>(x, n, left, count, now);
            } else {
                flat = of.nans ? NAN : left >= count;
                pivot = of.nans ? T(NAN) : left >= count ? -infinity : infinity;
            }
            // Infinite scores of one sign are tied: they share what is theirs.
            top = of.nans ? NAN : within(k / std::fmax(double(of.tops), 1));
            bottom = of.nans ? NAN : within((std::fmax(left, 0) - count) / std::fmax(double(of.bottoms), 1));
        }
        const Vec<T> c = all(T(at_threshold<link>(delta)));
        for (int64_t i = 0; i < n; i += width<T>) {
            Vec<T> w = solving ? weight<link, T>(read<T>(x, i, n, T(0)), c) : all(T(flat));
            if (!plain) {
                const Vec<T> s = entries<T>(scores, in.kind, nullptr, i, n, T(0));
                w = s == infinity ? all(T(top)) : s == -infinity ? all(T(bottom)) : w;
                if (valid) w = marked<T>(valid, i, n, w, T(0));
            }
            put<T>(out, in.kind, i, n, w);
        }
        if (!job.taus) continue;
        T* tau = static_cast<T*>(job.taus) + 2 * r;
        tau[0] = pivot;
        tau[1] = std::isnan(pivot) ? pivot : T(delta * t);
    }
}

template <int link, class T>
TARGET void backward_rows(const SoftBackward& job, int64_t begin, int64_t end, void* work) {
    const Rows& in = job.in;
    const int64_t n = in.n, bytes = in.kind < 2 ? 2 : sizeof(T);
    const T far = T(far_slope<T>);
    const Vec<T> zero{};
    for (int64_t r = begin; r < end; ++r) {
        const void* scores = static_cast<const char*>(in.scores) + r * n * bytes;
        const void* grads = static_cast<const char*>(job.grads) + r * n * bytes;
        void* out = static_cast<char*>(job.out) + r * n * bytes;
        T* x = static_cast<T*>(in.kind < 2 ? work : out);
        const uint8_t* valid = in.valid ? in.valid + r * n : nullptr;
        const T inverse = T(1 / held<T>(in.temperatures ? in.temperatures[r] : in.temperature));
        const T *tau = static_cast<const T*>(job.taus) + 2 * r, pivot = tau[0], shift = tau[1];
        double slopes = 0, products = 0;
        for (int64_t start = 0; start < n; start += together * width<T>) {
            const int64_t stop = n - start < together * width<T> ? n : start + together * width<T>;
            Vec<T> total{}, product{};
            for (int64_t i = start; i < stop; i += width<T>) {
                const Vec<T> z = (entries<T>(scores, in.kind, valid, i, n, T(NAN)) - pivot - shift) * inverse;
                Vec<T> d = slope_at<link, T>(z);
                d = magnitude<T>(z) < far ? d : zero;
                write(x, i, n, d);
                total += d;
                product += d * entries<T>(grads, in.kind, nullptr, i, n, T(0));
            }
            slopes += sum<T>(total);
            products += sum<T>(product);
        }
        // Where nothing moves (the slopes sum to 0) the gradient is 0.
        const double of_k = slopes == 0 ? 0 : products / slopes;
        double heat = 0;
        for (int64_t start = 0; start < n; start += together * width<T>) {
            const int64_t stop = n - start < together * width<T> ? n : start + together * width<T>;
            Vec<T> total{};
            for (int64_t i = start; i < stop; i += width<T>) {
                const Vec<T> s = entries<T>(scores, in.kind, valid, i, n, T(0));
                const Vec<T> z = (s - pivot - shift) * inverse, d = read<T>(x, i, n, T(0));
                const Vec<T> g = d * (entries<T>(grads, in.kind, nullptr, i, n, T(0)) - T(of_k)) * inverse;
                total += magnitude<T>(z) < far ? z * g : zero;
                put<T>(out, in.kind, i, n, g);
            }
            heat += sum<T>(total);
        }
        job.of_k[r] = of_k;
        job.of_temperature[r] = -heat;
    }
}

template <class T>
TARGET void all_exponentials(const void* numbers, void* out, int64_t n) {
    for (int64_t i = 0; i < n; i += width<T>)
        write(static_cast<T*>(out), i, n, exponential(read<T>(static_cast<const T*>(numbers), i, n, T(0))));
}

const Code code = {
    {{soft_rows<sigmoid, float>, soft_rows<laplace, float>, soft_rows<clip, float>, soft_rows<expo, float>},
     {soft_rows<sigmoid, double>, soft_rows<laplace, double>, soft_rows<clip, double>, soft_rows<expo, double>}},
    {{backward_rows<sigmoid, float>, backward_rows<laplace, float>, backward_rows<clip, float>,
      backward_rows<expo, float>},
     {backward_rows<sigmoid, double>, backward_rows<laplace, double>, backward_rows<clip, double>,
      backward_rows<expo, double>}},
    {all_exponentials<float>, all_exponentials<double>}};
