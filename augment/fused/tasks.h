/* A pass over an image: its records, as augment/fused/passes.py encodes them, and the drawn numbers that they name. */
#include <math.h>
#include <stdint.h>
#include <string.h>

#define RADIANS 0.017453292519943295

typedef struct {
    const void *values;
    int32_t type;
} Drawn;

typedef struct {
    Sizes sizes;
    int64_t first_drawn, move_count, step_count;
    const MoveRecord *moves;
    const StepRecord *steps;
} Pass;

typedef struct {
    const Pass *pass;
    const Drawn *drawn;
    int64_t image;
    Scratch *scratch;
} Task;

static double number(const Task *task, int64_t which, int64_t place) {
    const Drawn *drawn = task->drawn + task->pass->first_drawn + which;
    switch (drawn->type) {
    case TYPE_BOOL: return ((const uint8_t *)drawn->values)[place];
    case TYPE_INT64: return (double)((const int64_t *)drawn->values)[place];
    default: return ((const float *)drawn->values)[place];
    }
}

/* Flips and crops along an axis: 0 rows and 1 columns before the resampling, 2 and 3 those behind it. */
static Axis moved(const Task *task, Axis axis, int which) {
    for (int n = 0; n < task->pass->move_count; n++) {
        const MoveRecord *move = task->pass->moves + n;
        if (move->axis != which) continue;
        int offset = (int)move->offset;
        if (move->kind == MOVE_FLIP) {
            if (number(task, move->start, task->image) != 0.0) {
                axis.origin += axis.direction * offset;
                axis.direction = -axis.direction;
            }
        } else {
            double start = move->kind == MOVE_SHIFT ? 0.0 : number(task, move->start, task->image);
            axis.is_reflected = move->kind == MOVE_REFLECT;
            axis.origin += axis.direction * (within(start, -(1 << 28), 1 << 28) + offset);
        }
    }
    return axis;
}

/* Pixels first .. first + count - 1 of an axis. */
static Axis from_place(Axis axis, int first) {
    axis.origin += axis.direction * first;
    return axis;
}

/* The point op that an image goes through in a step, and its strength. */
static int drawn_point(const Task *task, const StepRecord *step, float *strength) {
    if (step->change == CHANGE_POLICY) {
        int64_t place = task->image * step->places + step->place;
        *strength = (float)number(task, step->first + 1, place * ARGUMENTS);
        return within(number(task, step->first, place), 0, POINT_COUNT);
    }
    *strength = step->strengths < 0 ? (float)step->strength : (float)number(task, step->strengths, task->image);
    return step->applied < 0 || number(task, step->applied, task->image) != 0.0 ? (int)step->point : POINT_IDENTITY;
}

typedef struct {
    int32_t top, left, height, width;
} Window;

/* The rectangle (top, left, height, width) drawn from ``first`` on, cut at the border of height x width pixels. */
static Window window_of(const Task *task, int64_t first, int height, int width) {
    double top = number(task, first, task->image), left = number(task, first + 1, task->image);
    int y = within(ceil(top), 0, height), x = within(ceil(left), 0, width);
    int bottom = within(ceil(top + number(task, first + 2, task->image)), y, height);
    int right = within(ceil(left + number(task, first + 3, task->image)), x, width);
    return (Window){y, x, bottom - y, right - x};
}

static void affine_of(const Task *task, int64_t first, float matrix[6]) {
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
    const StepRecord *step = task->pass->steps;
    switch (step->sampler) {
    case SAMPLER_AFFINE: affine_of(task, step->first, matrix); return 1;
    case SAMPLER_ROTATE: {
        double angle = number(task, step->first, task->image) * RADIANS;
        float turn[6] = {(float)cos(angle), (float)-sin(angle), 0.0f, (float)sin(angle), (float)cos(angle), 0.0f};
        memcpy(matrix, turn, sizeof(turn));
        return 1;
    }
    case SAMPLER_NEIGHBOURS: {
        float strength;
        if (drawn_point(task, step, &strength) != POINT_WARP) return 0;
        int64_t place = task->image * step->places + step->place;
        for (int i = 0; i < 6; i++) matrix[i] = (float)number(task, step->first + 1, place * ARGUMENTS + i);
        return 1;
    }
    }
    return 0;
}
