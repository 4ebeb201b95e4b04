/* Replays kept inputs of a fuzz target: lines of hexadecimal digits; # begins a remark. */
#include <ctype.h>

#include "fuzz.h"

static int
digit(int c)
{
    return isdigit(c) ? c - '0' : tolower(c) - 'a' + 10;
}

int
main(int argc, char **argv)
{
    enum { LONGEST = 1 << 14 };
    static char line[2 * LONGEST + 2];
    static uint8_t bytes[LONGEST];
    int count = 0;
    CHECK(argc == 2);
    FILE *file = fopen(argv[1], "r");
    CHECK(file != NULL);
    while (fgets(line, sizeof line, file) != NULL) {
        size_t length = strcspn(line, "\r\n");
        if (line[0] == '#') {
            continue;
        }
        CHECK(length % 2 == 0 && length / 2 <= LONGEST);
        for (size_t i = 0; i < length / 2; i++) {
            CHECK(isxdigit(line[2 * i]) && isxdigit(line[2 * i + 1]));
            bytes[i] = (uint8_t)(digit(line[2 * i]) << 4 | digit(line[2 * i + 1]));
        }
        /* exactly as long as the input, for the address sanitizer */
        uint8_t *exact = malloc(length / 2 + 1);
        CHECK(exact != NULL);
        memcpy(exact, bytes, length / 2);
        CHECK(LLVMFuzzerTestOneInput(exact, length / 2) == 0);
        free(exact);
        count++;
    }
    fclose(file);
    CHECK(count > 0);
    printf("        %d kept inputs\n", count);
    return 0;
}
