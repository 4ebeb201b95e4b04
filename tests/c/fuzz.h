/* What the fuzz targets share. A target (fuzz_*.c) is one function of bytes. tools/c_fuzz.sh builds
 * it with libFuzzer; tools/c_tests.sh with fuzz_main.c, which replays the inputs that are kept in
 * corpus/. */
#ifndef TESTS_C_FUZZ_H
#define TESTS_C_FUZZ_H

#include "tiny.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Numbers from an input, one after the other; all zero after its end. */
typedef struct {
    const uint8_t *data;
    size_t size;
} fuzz_input;

uint8_t fuzz_byte(fuzz_input *input);
/* Mostly 0 .. limit - 1, sometimes one of the numbers that bounds are missed by. */
int32_t fuzz_int(fuzz_input *input, int32_t limit);
/* Mostly of -2 .. 2, sometimes infinite, not a number, very large or very small. */
float fuzz_float(fuzz_input *input);
/* New arrays of exactly that length, so that the address sanitizer sees one that is left; an empty
 * one is NULL. The caller frees them. */
int32_t *fuzz_ints(fuzz_input *input, int32_t count, int32_t limit);
float *fuzz_floats(fuzz_input *input, size_t count);

/* To be called at the beginning of every input: the engine starts with the first. */
void fuzz_begin(void);
/* A status other than SP_OK comes with a message. Returns whether it is SP_OK. */
int fuzz_ok(sp_status status, const sp_error *error);

#endif
