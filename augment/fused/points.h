/* Values of an image: augment/fused/tensors.py. Three planes of ``count`` values, changed in place.
 *
 * A point op is one function, POINT_OP(name); its number and its place in POINT_OPS come from the generated records.h. ``room``
 * has a byte for each value of a plane. */

#define LANES 64 /* sums are kept that many times, so that the compiler can use wide registers */

static inline float unit(float x) {
    x = x > 0.0f ? x : 0.0f;
    return x < 1.0f ? x : 1.0f;
}

static float mean_of(const float *restrict plane, int64_t count) {
    double total = 0.0;
    int64_t start = 0;
    while (count - start >= LANES) { /* in blocks: floats hold the sum of 4096 values well enough */
        int64_t end = count - start > 4096 ? start + 4096 : start + (count - start) / LANES * LANES;
        float sums[LANES] = {0};
        for (; start < end; start += LANES)
            for (int lane = 0; lane < LANES; lane++) sums[lane] += plane[start + lane];
        for (int lane = 0; lane < LANES; lane++) total += sums[lane];
    }
    for (; start < count; start++) total += plane[start];
    return (float)(total / (double)count);
}

static void range_of(const float *restrict plane, int64_t count, float *lowest, float *highest) {
    float low = plane[0], high = plane[0];
#pragma omp simd reduction(min : low) reduction(max : high)
    for (int64_t i = 0; i < count; i++) {
        low = plane[i] < low ? plane[i] : low;
        high = plane[i] > high ? plane[i] : high;
    }
    *lowest = low;
    *highest = high;
}

static inline float grey(float red, float green, float blue) { return red * LUMA_RED + green * LUMA_GREEN + blue * LUMA_BLUE; }

/* Blends with one value; brightness is a blend with black. */
static void blend_with(float *restrict values, int64_t count, float background, float factor) {
    float rest = background * (1.0f - factor);
    for (int64_t i = 0; i < count; i++) values[i] = unit(values[i] * factor + rest);
}

static void blend_with_grey(float *restrict red, float *restrict green, float *restrict blue, int64_t count, float factor) {
    for (int64_t i = 0; i < count; i++) {
        float rest = grey(red[i], green[i], blue[i]) * (1.0f - factor);
        red[i] = unit(red[i] * factor + rest);
        green[i] = unit(green[i] * factor + rest);
        blue[i] = unit(blue[i] * factor + rest);
    }
}

static inline float hue_share(float sixths, float chroma, float value, float offset) {
    float turns = (sixths + offset) * (1.0f / 6.0f);
    float place = (turns - floorf(turns)) * 6.0f;
    return value - unit(2.0f - fabsf(place - 2.0f)) * chroma;
}

static void turn_hue(float *restrict red, float *restrict green, float *restrict blue, int64_t count, float factor) {
    float sixths_more = factor * 6.0f;
    for (int64_t i = 0; i < count; i++) {
        float r = red[i], g = green[i], b = blue[i];
        float value = r > g ? r : g, least = r < g ? r : g;
        value = value > b ? value : b;
        least = least < b ? least : b;
        float chroma = value - least;
        float from_green = b - r + chroma * 2.0f, from_blue = r - g + chroma * 4.0f;
        float sixths = g == value ? from_green : from_blue;
        sixths = r == value ? g - b : sixths;
        sixths = sixths / (chroma > 1e-30f ? chroma : 1e-30f);
        red[i] = hue_share(sixths, chroma, value, 17.0f + sixths_more);
        green[i] = hue_share(sixths, chroma, value, 15.0f + sixths_more);
        blue[i] = hue_share(sixths, chroma, value, 13.0f + sixths_more);
    }
}

static void stretch(float *restrict values, int64_t count) {
    float low, high;
    range_of(values, count, &low, &high);
    float darkest = high == low ? 0.0f : low, span = high == low ? 1.0f : high - low;
    for (int64_t i = 0; i < count; i++) values[i] = unit((values[i] - darkest) / span);
}

/* PIL's formula on 256 bins. ``bins`` is room for as many bytes. */
static void equalize_plane(float *restrict values, int64_t count, uint8_t *restrict bins) {
    uint32_t counts[4][256] = {{0}}; /* four: equal neighbours would wait for one another */
    float belows[256], levels[256];
    for (int64_t i = 0; i < count; i++) {
        float place = values[i] * 255.999f;
        bins[i] = (uint8_t)(int32_t)(place < 255.0f ? (place > 0.0f ? place : 0.0f) : 255.0f);
    }
    int64_t whole = count / 4 * 4;
    for (int64_t i = 0; i < whole; i += 4)
        for (int k = 0; k < 4; k++) counts[k][bins[i + k]]++;
    for (int64_t i = whole; i < count; i++) counts[0][bins[i]]++;
    int64_t below = 0, before_brightest = 0;
    for (int k = 0; k < 256; k++) {
        int64_t here = (int64_t)counts[0][k] + counts[1][k] + counts[2][k] + counts[3][k];
        before_brightest = here ? below : before_brightest;
        belows[k] = (float)below;
        below += here;
    }
    /* Whole numbers, below 2**24: floats divide them as well, and many at once. */
    float step = floorf((float)before_brightest / 255.0f), half = floorf(step / 2.0f), divisor = step > 1.0f ? step : 1.0f;
    for (int k = 0; k < 256; k++) {
        float level = floorf((belows[k] + half) / divisor);
        level = step > 0.0f ? level : (float)k;
        levels[k] = (level < 255.0f ? level : 255.0f) / 255.0f;
    }
    for (int64_t i = 0; i < count; i++) values[i] = levels[bins[i]];
}

#define POINT_OP(NAME) static void point_##NAME(float *planes, int64_t count, float strength, uint8_t *room)

POINT_OP(brightness) { blend_with(planes, 3 * count, 0.0f, strength); }

POINT_OP(contrast) {
    float means[3];
    for (int c = 0; c < 3; c++) means[c] = mean_of(planes + c * count, count);
    blend_with(planes, 3 * count, grey(means[0], means[1], means[2]), strength);
}

POINT_OP(saturation) { blend_with_grey(planes, planes + count, planes + 2 * count, count, strength); }

POINT_OP(grayscale) { blend_with_grey(planes, planes + count, planes + 2 * count, count, 0.0f); }

POINT_OP(hue) { turn_hue(planes, planes + count, planes + 2 * count, count, strength); }

POINT_OP(posterize) {
    float levels = exp2f(strength);
    for (int64_t i = 0; i < 3 * count; i++) {
        float level = floorf(planes[i] * levels);
        level = level > 0.0f ? level : 0.0f;
        planes[i] = (level < levels - 1.0f ? level : levels - 1.0f) * (1.0f / levels);
    }
}

POINT_OP(solarize) {
    for (int64_t i = 0; i < 3 * count; i++) planes[i] = planes[i] >= strength ? 1.0f - planes[i] : planes[i];
}

POINT_OP(invert) {
    for (int64_t i = 0; i < 3 * count; i++) planes[i] = 1.0f - planes[i];
}

POINT_OP(autocontrast) {
    for (int c = 0; c < 3; c++) stretch(planes + c * count, count);
}

POINT_OP(equalize) {
    for (int c = 0; c < 3; c++) equalize_plane(planes + c * count, count, room);
}

#define ENTRY(NUMBER, NAME) [NUMBER] = point_##NAME,
static void (*const POINT_OPS[POINT_COUNT])(float *, int64_t, float, uint8_t *) = {EACH_POINT(ENTRY)};
#undef ENTRY

/* Points without a function do nothing here: they are resamplings, or unknown. */
static void change(float *planes, int64_t count, int point, float strength, uint8_t *room) {
    if (point < POINT_COUNT && POINT_OPS[point]) POINT_OPS[point](planes, count, strength, room);
}

/* ---- neighbours ------------------------------------------------------------------------------------------------------ */

static void sharpen_plane(const float *restrict from, int height, int width, float factor, float *restrict line,
                          float *restrict to) {
    float rest = 1.0f - factor;
    line[0] = line[width + 1] = 0.0f;
    for (int y = 0; y < height; y++) {
        const float *restrict row = from + (int64_t)y * width;
        float *restrict result = to + (int64_t)y * width;
        if (y == 0 || y == height - 1) {
            for (int x = 0; x < width; x++) result[x] = unit(row[x]);
            continue;
        }
        for (int x = 0; x < width; x++) line[x + 1] = row[x - width] + row[x] + row[x + width];
        for (int x = 0; x < width; x++) {
            float smooth = (line[x] + line[x + 1] + line[x + 2] + 4.0f * row[x]) * (1.0f / 13.0f);
            result[x] = unit(row[x] + (smooth - row[x]) * rest);
        }
        result[0] = unit(row[0]);
        result[width - 1] = unit(row[width - 1]);
    }
}

/* Sharpen the pixels in scratch->moved; the outermost stay. */
static void sharpen(const Scratch *s, int height, int width, float factor, float *to) {
    for (int c = 0; c < 3; c++) {
        int64_t plane = (int64_t)c * height * width;
        sharpen_plane(s->moved + plane, height, width, factor, s->line, to + plane);
    }
}

/* The ``taps`` weights of a Gaussian. */
static void gaussian(float sigma, int taps, float *weights) {
    float total = 0.0f;
    for (int k = 0; k < taps; k++) {
        float distance = (float)(k - taps / 2) / sigma;
        total += weights[k] = expf(-distance * distance / 2.0f);
    }
    for (int k = 0; k < taps; k++) weights[k] /= total;
}

static inline int reflected(int place, int side) {
    place = place < 0 ? -place : place;
    return place < side ? place : 2 * (side - 1) - place;
}

/* Sums of ``taps`` stretches of ``count`` values, at their offsets, weighted. In blocks, which stay in registers. */
static void weigh_stretches(const float *restrict from, const int32_t *restrict offsets, const float *restrict weights, int taps,
                            int count, float *restrict to) {
    int x = 0;
    for (; x + BLOCK <= count; x += BLOCK) {
        float sums[BLOCK] = {0};
        for (int k = 0; k < taps; k++)
            for (int lane = 0; lane < BLOCK; lane++) sums[lane] += from[offsets[k] + x + lane] * weights[k];
        memcpy(to + x, sums, sizeof(sums));
    }
    for (; x < count; x++) {
        float sum = 0.0f;
        for (int k = 0; k < taps; k++) sum += from[offsets[k] + x] * weights[k];
        to[x] = sum;
    }
}

/* Weighted down the columns, then along the rows; borders are reflected. ``line`` is room for a row and ``taps`` values,
 * ``offsets`` for as many twice. */
static void blur_plane(const float *restrict from, int height, int width, const float *restrict weights, int taps,
                       float *restrict line, int32_t *restrict offsets, float *restrict to) {
    int half = taps / 2;
    float *middle = line + half;
    for (int k = 0; k < taps; k++) offsets[taps + k] = k;
    for (int y = 0; y < height; y++) {
        for (int k = 0; k < taps; k++) offsets[k] = reflected(y + k - half, height) * width;
        weigh_stretches(from, offsets, weights, taps, width, middle);
        for (int x = 1; x <= half; x++) {
            line[half - x] = middle[reflected(-x, width)];
            middle[width - 1 + x] = middle[reflected(width - 1 + x, width)];
        }
        weigh_stretches(line, offsets + taps, weights, taps, width, to + (int64_t)y * width);
    }
}

/* Blur the pixels in scratch->moved. */
static void blur(const Scratch *s, int height, int width, float sigma, int taps, float *to) {
    gaussian(sigma, taps, s->weights[0]);
    for (int c = 0; c < 3; c++) {
        int64_t plane = (int64_t)c * height * width;
        blur_plane(s->moved + plane, height, width, s->weights[0], taps, s->line, s->starts[0], to + plane);
    }
}

static void add_noise(float *restrict values, const float *restrict noise, int64_t count) {
    for (int64_t i = 0; i < count; i++) values[i] = unit(values[i] + noise[i]);
}
