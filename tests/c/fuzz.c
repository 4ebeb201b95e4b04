#include "fuzz.h"

#include <math.h>

uint8_t
fuzz_byte(fuzz_input *input)
{
    if (input->size == 0) {
        return 0;
    }
    input->size--;
    return *input->data++;
}

int32_t
fuzz_int(fuzz_input *input, int32_t limit)
{
    const int32_t edges[] = {-1,      limit,   limit - 1, limit + 1,     -2,        1 << 12,
                             1 << 20, 1 << 24, INT32_MAX, INT32_MAX - 1, INT32_MIN, INT32_MIN + 1};
    enum { EDGES = sizeof edges / sizeof edges[0], USUAL = 256 - EDGES };
    const uint8_t byte = fuzz_byte(input);
    return byte < USUAL ? byte % limit : edges[byte - USUAL];
}

float
fuzz_float(fuzz_input *input)
{
    static const float edges[] = {NAN, INFINITY, -INFINITY, 0.0f, -0.0f, 3e38f, -3e38f, 1e-42f};
    enum { EDGES = sizeof edges / sizeof edges[0], USUAL = 256 - EDGES };
    const uint8_t byte = fuzz_byte(input);
    return byte < USUAL ? (float)(byte - USUAL / 2) / (USUAL / 4) : edges[byte - USUAL];
}

int32_t *
fuzz_ints(fuzz_input *input, int32_t count, int32_t limit)
{
    int32_t *values = count > 0 ? malloc((size_t)count * sizeof *values) : NULL;
    CHECK(count <= 0 || values != NULL);
    for (int32_t i = 0; i < count; i++) {
        values[i] = fuzz_int(input, limit);
    }
    return values;
}

float *
fuzz_floats(fuzz_input *input, size_t count)
{
    float *values = count > 0 ? malloc(count * sizeof *values) : NULL;
    CHECK(count == 0 || values != NULL);
    for (size_t i = 0; i < count; i++) {
        /* where the input has ended, numbers that are not all the same */
        values[i] = input->size > 0 ? fuzz_float(input) : (float)(i * 7 % 11) / 8.0f - 0.6f;
    }
    return values;
}

void
fuzz_begin(void)
{
    static int begun;
    if (!begun) {
        CHECK_OK(sp_initialize(NULL, error));
        begun = 1;
    }
}

int
fuzz_ok(sp_status status, const sp_error *error)
{
    CHECK(status == SP_OK || (error->status == status && error->message[0] != '\0'));
    return status == SP_OK;
}
