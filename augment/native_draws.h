/* What is drawn for each image, from uniform numbers: the records of augment/draws.py, whose formulas augment/sampling.py defines.
 *
 * A record's numbers lie in rows, ``batch`` floats each, so that loops over images read and write what lies side by side. All
 * arithmetic is in floats, rounded after each step, as tensors do it; only the last bit of expf may differ.
 */
#include <math.h>
#include <stdint.h>

typedef struct {
    const double *constants;
    const float *rows; /* from the record's first on */
    void *const *given;
    void *const *tables;
    void *const *outputs;
    int64_t batch;
} Draws;

static float row_of(const Draws *draws, int64_t row, int64_t image) { return draws->rows[row * draws->batch + image]; }

static float constant(const Draws *draws, int which) { return (float)draws->constants[which]; }

/* Uniform in 0 .. count - 1. */
static float below(float unit, float count) { return fminf(floorf(unit * count), count - 1.0f); }

static void draw_chance(const Draws *draws) {
    uint8_t *applied = draws->outputs[0];
    float p = constant(draws, 0);
    for (int64_t i = 0; i < draws->batch; i++) applied[i] = draws->rows[i] < p;
}

static void draw_below(const Draws *draws) {
    int64_t *drawn = draws->outputs[0];
    float count = constant(draws, 0);
    for (int64_t i = 0; i < draws->batch; i++) drawn[i] = (int64_t)below(draws->rows[i], count);
}

static void draw_uniform(const Draws *draws) {
    int64_t size = (int64_t)draws->constants[0];
    float *drawn = (float *)draws->outputs[0] + (int64_t)draws->constants[1];
    float span = constant(draws, 2), low = constant(draws, 3);
    int is_rounded = (int)draws->constants[4];
    for (int64_t i = 0; i < draws->batch; i++) {
        float value = draws->rows[i] * span + low;
        drawn[i * size] = is_rounded ? rintf(value) : value;
    }
}

/* The order that sorts four numbers, equal ones as they stand. */
static void draw_order(const Draws *draws) {
    int64_t *order = draws->outputs[0];
    for (int64_t i = 0; i < draws->batch; i++)
        for (int a = 0; a < 4; a++) {
            int rank = 0;
            for (int b = 0; b < 4; b++) {
                float one = row_of(draws, a, i), other = row_of(draws, b, i);
                rank += b < a ? other <= one : other < one;
            }
            order[i * 4 + rank] = a;
        }
}

/* The sides of a window that is tried: constants 0 .. 4 say which share of the image's area it has, and which ratio. */
static void tried(const Draws *draws, int try, int64_t image, float *first, float *second) {
    float area = (row_of(draws, try, image) * constant(draws, 0) + constant(draws, 1)) * constant(draws, 2);
    float aspect = expf(row_of(draws, TRIES + try, image) * constant(draws, 3) + constant(draws, 4));
    *first = rintf(sqrtf(area * aspect));
    *second = rintf(sqrtf(area / aspect));
}

static void put_rectangle(const Draws *draws, int64_t image, float top, float left, float height, float width) {
    float all[4] = {top, left, height, width};
    for (int i = 0; i < 4; i++) ((float *)draws->outputs[i])[image] = all[i];
}

/* The first of the windows that fits the image, or else the largest centred one. */
static void draw_window(const Draws *draws) {
    float most_height = constant(draws, 5), most_width = constant(draws, 6);
    for (int64_t i = 0; i < draws->batch; i++) {
        float height = constant(draws, 7), width = constant(draws, 8);
        float top = floorf((most_height - height) / 2.0f), left = floorf((most_width - width) / 2.0f);
        for (int try = 0; try < TRIES; try++) {
            float high, wide;
            tried(draws, try, i, &wide, &high);
            if (!(wide > 0.0f && wide <= most_width && high > 0.0f && high <= most_height)) continue;
            height = high;
            width = wide;
            top = below(row_of(draws, 2 * TRIES, i), most_height + 1.0f - height);
            left = below(row_of(draws, 2 * TRIES + 1, i), most_width + 1.0f - width);
            break;
        }
        put_rectangle(draws, i, top, left, height, width);
    }
}

/* The first of the windows that leaves something of the image; without height where none does or none is wanted. */
static void draw_rectangle(const Draws *draws) {
    float most_height = constant(draws, 5), most_width = constant(draws, 6), p = constant(draws, 7);
    for (int64_t i = 0; i < draws->batch; i++) {
        float height = 0.0f, width = 0.0f;
        for (int try = 0; try < TRIES; try++) {
            float high, wide;
            tried(draws, try, i, &high, &wide);
            if (!(high < most_height && wide < most_width)) continue;
            height = row_of(draws, 2 * TRIES, i) < p ? high : 0.0f;
            width = wide;
            break;
        }
        float top = below(row_of(draws, 2 * TRIES + 1, i), most_height + 1.0f - height);
        float left = below(row_of(draws, 2 * TRIES + 2, i), most_width + 1.0f - width);
        put_rectangle(draws, i, top, left, height, width);
    }
}

static void draw_square(const Draws *draws) {
    float side = constant(draws, 2), rows = constant(draws, 0) + 1.0f - side, columns = constant(draws, 1) + 1.0f - side;
    for (int64_t i = 0; i < draws->batch; i++)
        put_rectangle(draws, i, below(row_of(draws, 0, i), rows), below(row_of(draws, 1, i), columns), side, side);
}

/* Where the corners of a perspective go, from top left on clockwise: x and y of each. */
static void draw_corners(const Draws *draws) {
    int64_t *corners = draws->outputs[0], right = (int64_t)draws->constants[2], bottom = (int64_t)draws->constants[3];
    for (int64_t i = 0; i < draws->batch; i++)
        for (int corner = 0; corner < 4; corner++) {
            int64_t x = (int64_t)below(row_of(draws, corner, i), constant(draws, 0));
            int64_t y = (int64_t)below(row_of(draws, 4 + corner, i), constant(draws, 1));
            corners[i * 8 + corner * 2] = corner == 1 || corner == 2 ? right - x : x;
            corners[i * 8 + corner * 2 + 1] = corner >= 2 ? bottom - y : y;
        }
}

/* A weight that is the record's first row, or was given: then every second number is one. */
static float weight(const Draws *draws, int is_given, int64_t image) {
    return is_given ? ((const float *)draws->given[0])[2 * image] : draws->rows[image];
}

static void draw_cutmix(const Draws *draws) {
    int is_given = (int)draws->constants[0];
    float *lam = draws->outputs[4];
    for (int64_t i = 0; i < draws->batch; i++) {
        float half = sqrtf(1.0f - weight(draws, is_given, i)) * 0.5f, from[2], size[2];
        for (int axis = 0; axis < 2; axis++) {
            float side = constant(draws, 1 + axis), centre = below(row_of(draws, axis + !is_given, i), side);
            float reach = floorf(half * side);
            from[axis] = fmaxf(centre - reach, 0.0f);
            size[axis] = fminf(centre + reach, side) - from[axis];
        }
        put_rectangle(draws, i, from[0], from[1], size[0], size[1]);
        lam[i] = 1.0f - size[0] * size[1] / (constant(draws, 1) * constant(draws, 2));
    }
}

/* AugMix: the weight of the image itself, and of each chain. */
static void draw_weights(const Draws *draws) {
    int is_given = (int)draws->constants[0];
    int64_t chains = (int64_t)draws->constants[1];
    float *weights = draws->outputs[0];
    const float *shares = draws->given[is_given];
    for (int64_t i = 0; i < draws->batch; i++) {
        float own = weight(draws, is_given, i);
        *weights++ = own;
        for (int64_t n = 0; n < chains; n++) *weights++ = (1.0f - own) * *shares++;
    }
}

/* An op of a policy's space at ``place``, and what that is: its kernel and the kernel's arguments. */
static void put_op(const Draws *draws, int64_t place, int64_t op, int64_t bin, int negative, int64_t bins) {
    const float *arguments = (const float *)draws->tables[1] + ((op * bins + bin) * 2 + negative) * ARGUMENTS;
    ((int64_t *)draws->outputs[0])[place] = op;
    ((int64_t *)draws->outputs[1])[place] = bin;
    ((uint8_t *)draws->outputs[2])[place] = (uint8_t)negative;
    ((int64_t *)draws->outputs[3])[place] = ((const int64_t *)draws->tables[0])[op];
    for (int n = 0; n < ARGUMENTS; n++) ((float *)draws->outputs[4])[place * ARGUMENTS + n] = arguments[n];
}

/* A policy: for each of its places an op, a bin and a sign. */
static void draw_policy(const Draws *draws) {
    int64_t places = (int64_t)draws->constants[0], first_bin = (int64_t)draws->constants[3];
    int64_t chain = (int64_t)draws->constants[4], bins = (int64_t)draws->constants[5];
    float choices = constant(draws, 1), drawn_bins = constant(draws, 2);
    int64_t op_rows = (int64_t)draws->constants[6], bin_rows = (int64_t)draws->constants[7];
    int64_t sign_rows = (int64_t)draws->constants[8];
    for (int64_t i = 0; i < draws->batch; i++)
        for (int64_t place = 0; place < places; place++) {
            int64_t op = (int64_t)below(row_of(draws, op_rows + place, i), choices), bin = first_bin;
            if (chain && (float)(place % chain) > below(row_of(draws, place / chain, i), (float)chain))
                op = (int64_t)choices; /* behind its end: the name after those that are drawn is Identity */
            if (drawn_bins > 0.0f) bin += (int64_t)below(row_of(draws, bin_rows + place, i), drawn_bins);
            put_op(draws, i * places + place, op, bin, row_of(draws, sign_rows + place, i) < 0.5f, bins);
        }
}

/* AutoAugment: a pair of ops, each applied at its own rate. Rows: the pair, whether each op is applied, and the signs. */
static void draw_pair(const Draws *draws) {
    const int64_t *ops = draws->tables[2], *bins = draws->tables[4];
    const float *rates = draws->tables[3];
    for (int64_t i = 0; i < draws->batch; i++) {
        int64_t pair = (int64_t)below(row_of(draws, 0, i), constant(draws, 0));
        ((int64_t *)draws->outputs[5])[i] = pair;
        for (int64_t place = 0; place < 2; place++) {
            int64_t which = pair * 2 + place;
            int64_t op = row_of(draws, 1 + place, i) < rates[which] ? ops[which] : (int64_t)draws->constants[1];
            put_op(draws, i * 2 + place, op, bins[which], row_of(draws, 3 + place, i) < 0.5f, (int64_t)draws->constants[2]);
        }
    }
}

static void (*const FORMULAS[])(const Draws *) = {
    [KIND_CHANCE] = draw_chance, [KIND_BELOW] = draw_below, [KIND_UNIFORM] = draw_uniform, [KIND_ORDER] = draw_order,
    [KIND_WINDOW] = draw_window, [KIND_RECTANGLE] = draw_rectangle, [KIND_SQUARE] = draw_square,
    [KIND_CORNERS] = draw_corners, [KIND_CUTMIX] = draw_cutmix, [KIND_WEIGHTS] = draw_weights, [KIND_POLICY] = draw_policy,
    [KIND_PAIR] = draw_pair,
};

/* All records of a program for ``batch`` images; a record is ``width`` numbers. ``addresses``: of all that records read, but for
 * the uniform numbers, and of what they write. */
void draw_parameters(const double *records, int32_t count, int32_t width, const float *uniforms, void *const *addresses,
                     int64_t batch) {
    for (const double *record = records; record < records + count * width; record += width) {
        Draws draws = {record + CONSTANTS, uniforms + (int64_t)record[1] * batch, addresses + (int64_t)record[3],
                       addresses + (int64_t)record[4], addresses + (int64_t)record[2], batch};
        FORMULAS[(int)record[0]](&draws);
    }
}
