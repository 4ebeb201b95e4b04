/* Stored weights of any bytes, of right and wrong sizes, under known and unknown names. */
#include "fuzz.h"

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct {
        const char *name;
        size_t block_size, block_bytes;
    } types[] = {{"F16", 1, 2},      {"BF16", 1, 2},      {"Q4_0", 32, 18},   {"Q4_1", 32, 20},
                 {"Q5_0", 32, 22},   {"Q5_1", 32, 24},    {"Q8_0", 32, 34},   {"Q2_K", 256, 84},
                 {"Q3_K", 256, 110}, {"Q4_K", 256, 144},  {"Q5_K", 256, 176}, {"Q6_K", 256, 210},
                 {"IQ4_NL", 32, 18}, {"IQ4_XS", 256, 136}};
    enum { TYPES = sizeof types / sizeof types[0] };
    fuzz_input input = {data, size};
    fuzz_begin();
    const uint8_t which = fuzz_byte(&input);
    const int num_threads = 1 + fuzz_byte(&input) % 2;
    const int32_t wrong = fuzz_int(&input, 1); /* 0: the right number of numbers */
    char unknown[8] = {0};
    sp_error error = {0};
    if (which >= TYPES) {
        for (size_t i = 0; i < sizeof unknown - 1; i++) {
            unknown[i] = (char)fuzz_byte(&input);
        }
    }
    const size_t block_size = types[which % TYPES].block_size;
    const size_t whole = input.size / types[which % TYPES].block_bytes * block_size;
    const size_t claimed = whole + (size_t)(int64_t)wrong;
    float *numbers = malloc((whole + 1) * sizeof *numbers);
    uint8_t *bytes = malloc(input.size + 1);
    CHECK(numbers != NULL && bytes != NULL);
    memcpy(bytes, input.data, input.size);
    const float mark = 12345.0f;
    numbers[whole] = mark;
    const char *name = which < TYPES ? types[which].name : unknown;
    const sp_status status =
        sp_dequantize(name, bytes, input.size, numbers, claimed, num_threads, &error);
    if (fuzz_ok(status, &error) && which < TYPES) {
        CHECK(claimed == whole && input.size == whole / block_size * types[which].block_bytes);
    }
    CHECK(numbers[whole] == mark);
    free(numbers);
    free(bytes);
    return 0;
}
