/* Parameters of each image from uniform numbers: the records of augment/fused/sample.py, whose formulas augment/fused/formulas.py
 * defines.
 *
 * Uniform numbers lie in rows, ``batch`` floats each, so that loops over images read and write what lies side by side. All
 * arithmetic is in floats, rounded after each step, as tensors do it; only the last bit of expf may differ.
 */

typedef struct {
    const DrawRecord *record;
    const float *rows; /* from the record's first on */
    void *const *tables;
    void *const *outputs;
    int64_t batch;
} Draws;

static float row_of(const Draws *draws, int64_t row, int64_t image) { return draws->rows[row * draws->batch + image]; }

/* Uniform in 0 .. count - 1. */
static float below(float unit, float count) { return fminf(floorf(unit * count), count - 1.0f); }

static void draw_chance(const Draws *draws) {
    uint8_t *applied = draws->outputs[0];
    float p = (float)draws->record->p;
    for (int64_t i = 0; i < draws->batch; i++) applied[i] = draws->rows[i] < p;
}

/* A parameter's number at the record's place. */
static void put_number(const Draws *draws, int64_t image, float value) {
    int64_t at = image * draws->record->size + draws->record->place;
    if (draws->record->is_whole)
        ((int64_t *)draws->outputs[0])[at] = (int64_t)value;
    else
        ((float *)draws->outputs[0])[at] = value;
}

static void draw_below(const Draws *draws) {
    float count = (float)draws->record->count, span = (float)draws->record->span, low = (float)draws->record->low;
    for (int64_t i = 0; i < draws->batch; i++) put_number(draws, i, below(draws->rows[i], count) * span + low);
}

static void draw_uniform(const Draws *draws) {
    float span = (float)draws->record->span, low = (float)draws->record->low;
    int is_rounded = (int)draws->record->is_rounded;
    for (int64_t i = 0; i < draws->batch; i++) {
        float value = draws->rows[i] * span + low;
        put_number(draws, i, is_rounded ? rintf(value) : value);
    }
}

/* The order that sorts ``count`` numbers; equal ones stay in place. */
static void draw_order(const Draws *draws) {
    int64_t *order = draws->outputs[0];
    int count = (int)draws->record->count;
    for (int64_t i = 0; i < draws->batch; i++)
        for (int a = 0; a < count; a++) {
            int rank = 0;
            for (int b = 0; b < count; b++) {
                float key = row_of(draws, a, i), rival = row_of(draws, b, i);
                rank += b < a ? rival <= key : rival < key;
            }
            order[i * count + rank] = a;
        }
}

/* The first window, of a drawn share of the image's area and a drawn ratio, that fits; returns whether one does. One that is erased
 * has a ratio of height over width, and leaves something of the image. */
static int find_window(const Draws *draws, int64_t image, int is_erased, float *height, float *width) {
    const DrawRecord *record = draws->record;
    float most_height = (float)record->height, most_width = (float)record->width;
    for (int try = 0; try < TRIES; try++) {
        float share = row_of(draws, try, image) * (float)record->area_span + (float)record->area_low;
        float area = share * (float)(record->height * record->width);
        float aspect = expf(row_of(draws, TRIES + try, image) * (float)record->ratio_span + (float)record->ratio_low);
        float first = rintf(sqrtf(area * aspect)), second = rintf(sqrtf(area / aspect));
        float high = is_erased ? first : second, wide = is_erased ? second : first;
        if (is_erased ? high < most_height && wide < most_width
                      : high > 0.0f && high <= most_height && wide > 0.0f && wide <= most_width) {
            *height = high;
            *width = wide;
            return 1;
        }
    }
    return 0;
}

static void put_rectangle(const Draws *draws, int64_t image, float top, float left, float height, float width) {
    float all[4] = {top, left, height, width};
    for (int i = 0; i < 4; i++) ((float *)draws->outputs[i])[image] = all[i];
}

/* The first of the windows that fits the image, or else the largest centred one. */
static void draw_window(const Draws *draws) {
    float most_height = (float)draws->record->height, most_width = (float)draws->record->width;
    for (int64_t i = 0; i < draws->batch; i++) {
        float height = (float)draws->record->fallback_height, width = (float)draws->record->fallback_width;
        float top = floorf((most_height - height) / 2.0f), left = floorf((most_width - width) / 2.0f);
        if (find_window(draws, i, 0, &height, &width)) {
            top = below(row_of(draws, 2 * TRIES, i), most_height + 1.0f - height);
            left = below(row_of(draws, 2 * TRIES + 1, i), most_width + 1.0f - width);
        }
        put_rectangle(draws, i, top, left, height, width);
    }
}

/* The first of the windows that leaves something of the image; without height where none does or none is wanted. */
static void draw_rectangle(const Draws *draws) {
    for (int64_t i = 0; i < draws->batch; i++) {
        float height = 0.0f, width = 0.0f;
        find_window(draws, i, 1, &height, &width);
        if (!(row_of(draws, 2 * TRIES, i) < (float)draws->record->p)) height = 0.0f;
        float top = below(row_of(draws, 2 * TRIES + 1, i), (float)draws->record->height + 1.0f - height);
        float left = below(row_of(draws, 2 * TRIES + 2, i), (float)draws->record->width + 1.0f - width);
        put_rectangle(draws, i, top, left, height, width);
    }
}

/* The logarithm of a normal positive number, within two last bits: the polynomial of Cephes, which compilers vectorise. */
static inline float log_of(float value) {
    union { float number; int32_t bits; } x = {value};
    int32_t exponent = (x.bits - 0x3f3504f3) >> 23; /* of a factor from the root of 1/2 to the root of 2 */
    x.bits -= exponent * (1 << 23);
    float f = x.number - 1.0f, square = f * f, e = (float)exponent, sum = 7.0376836292e-2f;
    const float terms[] = {-1.1514610310e-1f, 1.1676998740e-1f, -1.2420140846e-1f, 1.4249322787e-1f,
                           -1.6668057665e-1f, 2.0000714765e-1f, -2.4999993993e-1f, 3.3333331174e-1f};
    for (int n = 0; n < 8; n++) sum = sum * f + terms[n];
    return f + (sum * f * square + e * -2.12194440e-4f - 0.5f * square) + e * 0.693359375f;
}

/* The logarithm of a uniform number; of half a step in place of 0. */
static inline float log_unit(float unit) { return log_of(unit > SMALLEST ? unit : SMALLEST); }

/* The cosine of an angle in turns. */
static inline float cos_turns(float turns) {
    float x = (0.25f - fabsf(turns - rintf(turns))) * 6.28318530717958648f, square = x * x, sum = -2.3889859e-8f;
    const float terms[] = {2.7525562e-6f, -1.9840874e-4f, 8.3333310e-3f, -1.6666667e-1f, 1.0f};
    for (int n = 0; n < 5; n++) sum = sum * square + terms[n];
    return sum * x;
}

enum { BLOCK = 64 }; /* images whose numbers are drawn side by side */

/* The logarithm of a Gamma number over ``shift``, and whether it is accepted. */
static inline int try_gamma(const Draws *draws, int64_t first, int64_t try, int64_t image, float *log_cube) {
    float normal = sqrtf(-2.0f * log_unit(row_of(draws, first + try / 2, image)));
    normal *= cos_turns(row_of(draws, first + GAMMA_TRIES / 2 + try / 2, image) - 0.25f * (try % 2));
    float root = (float)draws->record->span * normal + 1.0f, cube = root * root * root;
    *log_cube = log_of(cube > 1e-30f ? cube : 1e-30f);
    float bound = 0.5f * normal * normal + (float)draws->record->low * (1.0f - cube + *log_cube);
    return (cube > 0.0f) & (log_unit(row_of(draws, first + GAMMA_TRIES + try, image)) < bound);
}

/* Logarithms of Gamma numbers of ``count`` images, from row ``first`` on: formulas.log_gamma. */
static void log_gamma(const Draws *draws, int64_t first, int64_t image, int64_t count, float *values) {
    double alpha = draws->record->alpha;
    int accepted[BLOCK];
    if (alpha == 1.0) {
        for (int64_t i = 0; i < count; i++) values[i] = log_of(-log_unit(row_of(draws, first, image + i)));
        return;
    }
    for (int64_t i = 0; i < count; i++) accepted[i] = try_gamma(draws, first, 0, image + i, values + i);
    for (int64_t i = 0; i < count; i++) {
        for (int64_t try = 1; try < GAMMA_TRIES && !accepted[i]; try++)
            accepted[i] = try_gamma(draws, first, try, image + i, values + i);
        values[i] = (accepted[i] ? values[i] : 0.0f) + logf((float)draws->record->low);
    }
    if (alpha >= 1.0) return;
    const float *boost = draws->rows + (first + 2 * GAMMA_TRIES) * draws->batch + image;
    for (int64_t i = 0; i < count; i++) values[i] += log_unit(boost[i]) * (float)(1.0 / alpha);
}

/* Symmetric Dirichlet weights [size][BLOCK] of ``count`` images, from row ``first`` on. */
static void dirichlet(const Draws *draws, int64_t first, int64_t image, int64_t count, int64_t size, float *weights) {
    float greatest[BLOCK], total[BLOCK];
    for (int64_t n = 0; n < size; n++) {
        log_gamma(draws, first + n * (int64_t)draws->record->count, image, count, weights + n * BLOCK);
        for (int64_t i = 0; i < count; i++) greatest[i] = n ? fmaxf(greatest[i], weights[n * BLOCK + i]) : weights[i];
    }
    for (int64_t n = 0; n < size; n++)
        for (int64_t i = 0; i < count; i++) {
            float part = weights[n * BLOCK + i] = expf(weights[n * BLOCK + i] - greatest[i]);
            total[i] = n ? total[i] + part : part;
        }
    for (int64_t n = 0; n < size; n++)
        for (int64_t i = 0; i < count; i++) weights[n * BLOCK + i] /= total[i];
}

/* Draw a weight Beta(alpha, alpha) for up to BLOCK images from ``image`` on; return their number. */
static int64_t draw_block(const Draws *draws, int64_t image, float *weights) {
    int64_t count = draws->batch - image < BLOCK ? draws->batch - image : BLOCK;
    if (draws->record->alpha == 1.0)
        memcpy(weights, draws->rows + image, count * sizeof(float));
    else
        dirichlet(draws, 0, image, count, 2, weights);
    return count;
}

static void draw_beta(const Draws *draws) {
    float weights[2 * BLOCK];
    for (int64_t image = 0; image < draws->batch; image += BLOCK) {
        int64_t count = draw_block(draws, image, weights);
        memcpy((float *)draws->outputs[0] + image, weights, count * sizeof(float));
    }
}

static void draw_cutmix(const Draws *draws) {
    int64_t first = draws->record->behind;
    float sides[2] = {(float)draws->record->height, (float)draws->record->width};
    float *lam = draws->outputs[4], weights[2 * BLOCK];
    for (int64_t i = 0; i < draws->batch; i++) {
        if (i % BLOCK == 0) draw_block(draws, i, weights);
        float half = sqrtf(1.0f - weights[i % BLOCK]) * 0.5f, from[2], size[2];
        for (int axis = 0; axis < 2; axis++) {
            float side = sides[axis], centre = below(row_of(draws, first + axis, i), side);
            float reach = floorf(half * side);
            from[axis] = fmaxf(centre - reach, 0.0f);
            size[axis] = fminf(centre + reach, side) - from[axis];
        }
        put_rectangle(draws, i, from[0], from[1], size[0], size[1]);
        lam[i] = 1.0f - size[0] * size[1] / (sides[0] * sides[1]);
    }
}

/* AugMix: the weight of the image itself, and of each chain. */
static void draw_weights(const Draws *draws) {
    int64_t chains = draws->record->chains;
    float *drawn = draws->outputs[0], own[2 * BLOCK], weights[chains * BLOCK];
    for (int64_t image = 0; image < draws->batch; image += BLOCK) {
        int64_t count = draw_block(draws, image, own);
        dirichlet(draws, draws->record->behind, image, count, chains, weights);
        for (int64_t i = 0; i < count; i++) {
            *drawn++ = own[i];
            for (int64_t n = 0; n < chains; n++) *drawn++ = weights[n * BLOCK + i] * (1.0f - own[i]);
        }
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
    const DrawRecord *record = draws->record;
    int64_t places = record->places, chain = record->chain; /* rows: ends of chains, ops, bins if they are drawn, signs */
    int64_t first = chain ? places / chain : 0, signs = first + (record->drawn_bins > 0 ? 2 : 1) * places;
    float choices = (float)record->count, drawn_bins = (float)record->drawn_bins;
    for (int64_t i = 0; i < draws->batch; i++)
        for (int64_t place = 0; place < places; place++) {
            int64_t op = (int64_t)below(row_of(draws, first + place, i), choices), bin = record->first_bin;
            if (chain && (float)(place % chain) > below(row_of(draws, place / chain, i), (float)chain))
                op = (int64_t)choices; /* behind its end: the name after those that are drawn is Identity */
            if (drawn_bins > 0.0f) bin += (int64_t)below(row_of(draws, first + places + place, i), drawn_bins);
            put_op(draws, i * places + place, op, bin, row_of(draws, signs + place, i) < 0.5f, record->bins);
        }
}

/* AutoAugment: a pair of ops, each applied at its own rate. Rows: the pair, whether each op is applied, and the signs. */
static void draw_pair(const Draws *draws) {
    const int64_t *ops = draws->tables[2], *bins = draws->tables[4];
    const float *rates = draws->tables[3];
    for (int64_t i = 0; i < draws->batch; i++) {
        int64_t pair = (int64_t)below(row_of(draws, 0, i), (float)draws->record->count);
        ((int64_t *)draws->outputs[5])[i] = pair;
        for (int64_t place = 0; place < 2; place++) {
            int64_t which = pair * 2 + place;
            int64_t op = row_of(draws, 1 + place, i) < rates[which] ? ops[which] : draws->record->identity;
            put_op(draws, i * 2 + place, op, bins[which], row_of(draws, 3 + place, i) < 0.5f, draws->record->bins);
        }
    }
}

#define ENTRY(NUMBER, NAME) [NUMBER] = draw_##NAME,
static void (*const FORMULAS[])(const Draws *) = {EACH_DRAW(ENTRY)};
#undef ENTRY

/* All records of a program for ``batch`` images. ``addresses``: of all that records read, but for the uniform numbers, and of what
 * they write. */
void draw_parameters(const DrawRecord *records, int32_t count, const float *uniforms, void *const *addresses, int64_t batch) {
    for (const DrawRecord *record = records; record < records + count; record++) {
        Draws draws = {record, uniforms + record->row * batch, addresses + record->table, addresses + record->output, batch};
        FORMULAS[record->kind](&draws);
    }
}
