/* Passes of augment/passes.py on a CPU, image by image, so that what is worked on stays in the cache.
 *
 * Numbers of ways, samplers, draws and moves, and the weights of a grey version, come from the compiler's command line, where
 * augment/native_build.py puts those of the Python tables. augment/kernels.py and augment/geometry.py define what is done here,
 * and it is tested against them. Images are planar: three planes of height x width values. What was drawn is not trusted:
 * windows are cut at the image's border, and unknown ways do nothing.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "native_places.h"
#include "native_values.h"

#define RADIANS 0.017453292519943295

typedef struct {
    const void *values;
    int32_t type;
} Drawn;

typedef struct {
    int32_t sizes[6]; /* height and width of the source, after the moves, of the result */
    int32_t first_drawn, move_count, step_count;
    const double (*moves)[4];
    const double (*steps)[13];
} Pass;

typedef struct {
    const Pass *pass;
    const Drawn *drawn;
    int64_t image;
    Scratch *scratch;
} Task;

static double number(const Task *task, int which, int64_t place) {
    const Drawn *drawn = task->drawn + task->pass->first_drawn + which;
    switch (drawn->type) {
    case TYPE_BOOL: return ((const uint8_t *)drawn->values)[place];
    case TYPE_INT64: return (double)((const int64_t *)drawn->values)[place];
    default: return ((const float *)drawn->values)[place];
    }
}

/* Flips and crops along an axis: 0 rows and 1 columns before the resampling, 2 and 3 those behind it. */
static Axis move(const Task *task, Axis axis, int which) {
    for (int n = 0; n < task->pass->move_count; n++) {
        const double *record = task->pass->moves[n];
        if ((int)record[0] != which) continue;
        int offset = (int)record[3];
        if ((int)record[1] == MOVE_FLIP) {
            if (number(task, (int)record[2], task->image) != 0.0) {
                axis.origin += axis.direction * offset;
                axis.direction = -axis.direction;
            }
        } else {
            double start = (int)record[1] == MOVE_CROP ? number(task, (int)record[2], task->image) : 0.0;
            axis.origin += axis.direction * (within(start, -(1 << 28), 1 << 28) + offset);
        }
    }
    return axis;
}

/* Pixels first .. first + count - 1 of an axis. */
static Axis from_place(Axis axis, int first) { return (Axis){axis.origin + axis.direction * first, axis.direction}; }

/* The way that an image drew in a record, and its strength. */
static int drawn_way(const Task *task, const double *step, int kind, float *strength) {
    int first = (int)step[1];
    int64_t place = task->image * (int64_t)step[4] + (int64_t)step[3];
    switch (kind) {
    case DRAW_FACTOR: *strength = (float)number(task, first, task->image); return (int)step[5];
    case DRAW_APPLIED: *strength = (float)step[6]; return number(task, first, task->image) != 0.0 ? (int)step[5] : 0;
    default: *strength = (float)number(task, first + 1, place * 6); return within(number(task, first, place), 0, 255);
    }
}

static const int JITTERS[4] = {WAY_BRIGHTNESS, WAY_CONTRAST, WAY_SATURATION, WAY_HUE};

static void jitter(const Task *task, const double *step, float *planes, int64_t count) {
    for (int turn = 0; turn < 4; turn++) {
        int kind = within(number(task, (int)step[1], task->image * 4 + turn), 0, 3);
        float strength = (float)number(task, (int)step[1] + 1, task->image * 4 + kind);
        change(planes, count, JITTERS[kind], strength, (uint8_t *)task->scratch->pixels);
    }
}

typedef struct {
    int32_t top, left, height, width;
} Window;

/* The rectangle (top, left, height, width) drawn from ``first`` on, cut at the border of height x width pixels. */
static Window window_of(const Task *task, int first, int height, int width) {
    double top = number(task, first, task->image), left = number(task, first + 1, task->image);
    int y = within(ceil(top), 0, height), x = within(ceil(left), 0, width);
    int bottom = within(ceil(top + number(task, first + 2, task->image)), y, height);
    int right = within(ceil(left + number(task, first + 3, task->image)), x, width);
    return (Window){y, x, bottom - y, right - x};
}

static void erase(const Task *task, const double *step, float *planes, const float *value) {
    int height = task->pass->sizes[4], width = task->pass->sizes[5];
    Window hidden = window_of(task, (int)step[1], height, width);
    for (int c = 0; c < 3; c++)
        for (int y = hidden.top; y < hidden.top + hidden.height; y++) {
            float *row = planes + ((int64_t)c * height + y) * width + hidden.left;
            for (int x = 0; x < hidden.width; x++) row[x] = value[c];
        }
}

static void normalize(const double *numbers, float *planes, int64_t count) {
    for (int c = 0; c < 3; c++) {
        float gain = (float)numbers[2 * c], bias = (float)numbers[2 * c + 1], *restrict plane = planes + c * count;
        for (int64_t i = 0; i < count; i++) plane[i] = plane[i] * gain + bias;
    }
}

static void affine_of(const Task *task, int first, float matrix[6]) {
    double angle = number(task, first, task->image) * RADIANS, tangent = tan(number(task, first + 4, task->image) * RADIANS);
    double x = number(task, first + 1, task->image), y = number(task, first + 2, task->image);
    double scale = number(task, first + 3, task->image);
    double a = (cos(angle) - sin(angle) * tangent) / scale, b = (cos(angle) * tangent + sin(angle)) / scale;
    double c = -sin(angle) / scale, d = cos(angle) / scale;
    double all[6] = {a, b, -(a * x + b * y), c, d, -(c * x + d * y)};
    for (int i = 0; i < 6; i++) matrix[i] = (float)all[i];
}

/* Whether an image is warped in this pass, and by which matrix. */
static int warped(const Task *task, float matrix[6]) {
    const double *step = task->pass->steps[0];
    int first = (int)step[1];
    switch ((int)step[0]) {
    case SAMPLER_AFFINE: affine_of(task, first, matrix); return 1;
    case SAMPLER_ROTATE: {
        double angle = number(task, first, task->image) * RADIANS;
        float turn[6] = {(float)cos(angle), (float)-sin(angle), 0.0f, (float)sin(angle), (float)cos(angle), 0.0f};
        memcpy(matrix, turn, sizeof(turn));
        return 1;
    }
    case SAMPLER_CHOSEN: {
        float strength;
        if (drawn_way(task, step, (int)step[7], &strength) != WAY_WARP) return 0;
        int64_t place = task->image * (int64_t)step[4] + (int64_t)step[3];
        for (int i = 0; i < 6; i++) matrix[i] = (float)number(task, first + 1, place * 6 + i);
        return 1;
    }
    }
    return 0;
}

static void resized_window(const Task *task, Image from, Axis rows, Axis columns, float *to) {
    const Pass *pass = task->pass;
    const double *step = pass->steps[0];
    int height = pass->sizes[2], width = pass->sizes[3];
    Window window = {0, 0, height, width};
    if ((int)step[0] == SAMPLER_WINDOW) {
        window = window_of(task, (int)step[1], height, width);
        if (window.height < 1 || window.width < 1) window = (Window){0, 0, height, width};
    }
    /* Rows of whole blocks, whatever lies beside the window: loops without a rest are much faster. */
    int stride = (window.width + BLOCK - 1) / BLOCK * BLOCK;
    read_image(from, from_place(rows, window.top), from_place(columns, window.left), window.height, stride,
               task->scratch->moved, (int64_t)window.height * stride, stride, NULL);
    resize(task->scratch, window.height, window.width, stride, pass->sizes[4], pass->sizes[5], (int)step[5],
           move(task, FORWARDS, 2), move(task, FORWARDS, 3), to);
}

/* What an image's partner gives, and the partner's own flips and crops. */
static void mix(const Task *task, Image partner, int64_t other, float *to) {
    const Pass *pass = task->pass;
    const double *step = pass->steps[0];
    int height = pass->sizes[4], width = pass->sizes[5];
    int64_t count = (int64_t)height * width;
    Task its = *task;
    its.image = other;
    Axis rows = move(&its, move(&its, FORWARDS, 0), 2), columns = move(&its, move(&its, FORWARDS, 1), 3);
    if ((int)step[0] == SAMPLER_CUTMIX) {
        Window seen = window_of(task, (int)step[1], height, width);
        read_image(partner, from_place(rows, seen.top), from_place(columns, seen.left), seen.height, seen.width,
                   to + (int64_t)seen.top * width + seen.left, count, width, NULL);
        return;
    }
    float *restrict moved = task->scratch->moved, *restrict result = to, share = (float)number(task, (int)step[1], task->image);
    read_image(partner, rows, columns, height, width, moved, count, width, NULL);
    for (int64_t i = 0; i < 3 * count; i++) result[i] = result[i] * share + moved[i] * (1.0f - share);
}

/* Pixels before any change of values. */
static void sample(const Task *task, Image from, Image partner, int64_t other, float *to, const float *normal) {
    const int32_t *sizes = task->pass->sizes;
    const double *step = task->pass->steps[0];
    int sampler = (int)step[0], height = sizes[2], width = sizes[3];
    int64_t count = (int64_t)height * width;
    Axis rows = move(task, FORWARDS, 0), columns = move(task, FORWARDS, 1);
    float matrix[6], strength;
    if (sampler == SAMPLER_WINDOW || sampler == SAMPLER_RESIZE) {
        resized_window(task, from, rows, columns, to);
        return;
    }
    if (warped(task, matrix)) {
        read_image(from, rows, columns, height, width, task->scratch->moved, count, width, NULL);
        warp(task->scratch, height, width, matrix, move(task, FORWARDS, 2), move(task, FORWARDS, 3), to);
        return;
    }
    rows = move(task, rows, 2);
    columns = move(task, columns, 3);
    int is_sharper = sampler == SAMPLER_CHOSEN && drawn_way(task, step, (int)step[7], &strength) == WAY_SHARPNESS;
    if (is_sharper && height > 2 && width > 2) {
        float *moved = task->scratch->moved;
        read_image(from, rows, columns, height, width, moved, count, width, NULL);
        for (int c = 0; c < 3; c++) sharpen(moved + c * count, height, width, strength, task->scratch->line, to + c * count);
        return;
    }
    read_image(from, rows, columns, height, width, to, count, width, normal);
    if (sampler == SAMPLER_MIXUP || sampler == SAMPLER_CUTMIX) mix(task, partner, other, to);
}

/* Whether bytes only move, are erased and then normalised: gain and bias of each channel for that, and what erased is. */
static int is_simple(const Pass *pass, Image from, float normal[6]) {
    int last = pass->step_count - 1;
    if (!from.is_bytes || last < 1 || (int)pass->steps[0][0] != SAMPLER_TAKE) return 0;
    if ((int)pass->steps[last][0] != DRAW_NORMALIZE) return 0;
    for (int n = 1; n < last; n++)
        if ((int)pass->steps[n][0] != DRAW_ERASE) return 0;
    for (int c = 0; c < 3; c++) {
        normal[2 * c] = (float)(pass->steps[last][7 + 2 * c] / 255.0);
        normal[2 * c + 1] = (float)pass->steps[last][8 + 2 * c];
    }
    return 1;
}

static void run_pass(const Task *task, Image from, Image partner, int64_t other, float *to) {
    const Pass *pass = task->pass;
    int64_t count = (int64_t)pass->sizes[4] * pass->sizes[5];
    float normal[6];
    int simple = is_simple(pass, from, normal);
    sample(task, from, partner, other, to, simple ? normal : NULL);
    for (int n = 1; n < pass->step_count; n++) {
        const double *step = pass->steps[n];
        int kind = (int)step[0];
        if (kind == DRAW_ERASE) {
            float value[3];
            for (int c = 0; c < 3; c++)
                value[c] = simple ? (float)step[6] * normal[2 * c] * 255.0f + normal[2 * c + 1] : (float)step[6];
            erase(task, step, to, value);
        } else if (kind == DRAW_NORMALIZE) {
            if (!simple) normalize(step + 7, to, count);
        } else if (kind == DRAW_JITTER) {
            jitter(task, step, to, count);
        } else {
            float strength;
            int way = drawn_way(task, step, kind, &strength);
            change(to, count, way, strength, (uint8_t *)task->scratch->pixels);
        }
    }
}

static Image image_of(const void *images, int is_bytes, const Pass *pass, int64_t image) {
    int64_t size = 3 * (int64_t)pass->sizes[0] * pass->sizes[1];
    const char *at = (const char *)images + image * size * (is_bytes ? 1 : (int64_t)sizeof(float));
    return (Image){at, is_bytes, pass->sizes[0], pass->sizes[1]};
}

/* Images first .. end - 1 of a batch through all passes; only the first pass may mix images. ``images`` are bytes or floats
 * [batch, 3, height, width], ``to`` floats of the last pass's size. Returns 0, or 1 where memory is short. */
int augment_images(const Pass *passes, int32_t pass_count, const Drawn *drawn, const void *images, int32_t is_bytes,
                   int64_t batch, int64_t first, int64_t end, float *to) {
    int64_t height = 0, width = 0;
    for (int n = 0; n < pass_count; n++)
        for (int i = 0; i < 6; i += 2) {
            height = passes[n].sizes[i] > height ? passes[n].sizes[i] : height;
            width = passes[n].sizes[i + 1] > width ? passes[n].sizes[i + 1] : width;
        }
    width += BLOCK; /* rows may be filled up to whole blocks */
    int64_t planes = 3 * height * width, longer = (height > width ? height : width) + 2 * EDGE;
    int64_t pixels = 4 * (height + 2 * EDGE) * (width + 2 * EDGE) + 8 * longer, taps = 6 * longer;
    float *memory = malloc((size_t)(3 * planes + pixels + 4 * longer + 4 * taps) * sizeof(float));
    if (!memory) return 1;
    float *next = memory, *between[2];
    Scratch scratch = {.moved = next};
    between[0] = next += planes;
    between[1] = next += planes;
    scratch.pixels = next += planes;
    scratch.line = next += pixels;
    scratch.weights[0] = next += 4 * longer;
    scratch.weights[1] = next += taps;
    scratch.starts[0] = (int32_t *)(next += taps);
    scratch.starts[1] = (int32_t *)(next += taps);
    const Pass *last = passes + pass_count - 1;
    for (int64_t image = first; image < end; image++) {
        int64_t other = image ? image - 1 : batch - 1;
        Image from = image_of(images, is_bytes, passes, image), partner = image_of(images, is_bytes, passes, other);
        for (int n = 0; n < pass_count; n++) {
            const Pass *pass = passes + n;
            float *result = pass == last ? to + image * 3 * pass->sizes[4] * pass->sizes[5] : between[n % 2];
            Task task = {pass, drawn, image, &scratch};
            run_pass(&task, from, partner, other, result);
            from = (Image){result, 0, pass->sizes[4], pass->sizes[5]};
        }
    }
    free(memory);
    return 0;
}
