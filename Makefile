# temper: one makefile. `make help` lists the targets; every variable below may be set on the command line.
#   make run        set up, build, and run the main job on 4 ranks          make test    set up, build, run the tests
SHELL := /bin/bash
.DEFAULT_GOAL := all

# --- configuration ------------------------------------------------------------------------------------------------------
# What scripts/configure found (`make configure` renews it). Targets that build nothing, or that install first, do without.
BARE    := run run-smollm2 test test-all test-emu setup configure clean help lint format austen-text tsan fuzz fuzz-ci cuda cuda-here emu
ifneq ($(filter-out $(BARE),$(or $(MAKECMDGOALS),all)),)
-include config.mk
endif
CC      ?= gcc
ifeq ($(origin CC),default)
CC      := gcc
endif
MPICC   ?= mpicc
SAN     ?=#                     asan (address + undefined) | tsan | cov (coverage) | fuzz (libFuzzer, clang only)
WERROR  ?= 1
V       ?= 0
prefix  ?= /usr/local
NP      ?= 4
MPIRUN  ?= mpirun
OPT     ?= -O2 -g

BUILD   := build/$(notdir $(CC))$(if $(SAN),-$(SAN))
WARN    := -Wall -Wextra -Wpedantic -Wshadow -Wvla -Wstrict-prototypes -Wmissing-prototypes -Wundef \
           -Wno-unknown-warning-option $(if $(filter 1,$(WERROR)),-Werror)
SANFLAGS.asan := -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
SANFLAGS.tsan := -fsanitize=thread
SANFLAGS.cov  := --coverage
SANFLAGS.fuzz := -fsanitize=fuzzer-no-link,address,undefined,float-cast-overflow -fno-sanitize-recover=all -fno-omit-frame-pointer -Wno-pass-failed
# -ffp-contract=off: sums and products are what the source says; fma is written where it is meant.
CFLAGS_ALL := -std=c11 -D_GNU_SOURCE $(OPT) -fPIC -fopenmp -ffp-contract=off -fno-math-errno -fno-trapping-math $(WARN) $(SANFLAGS.$(SAN)) \
              -Isrc -MMD -MP $(DEPS_CFLAGS) $(CFLAGS)
LDFLAGS_ALL := $(SANFLAGS.$(SAN)) -fopenmp $(LDFLAGS)
LIBS    := $(DEPS_LIBS) -ldl -lm
VERSION := $(shell git describe --always --dirty 2>/dev/null || echo unknown)
ENV     := OMPI_CC=$(CC) MPICH_CC=$(CC)
Q       := $(if $(filter 1,$(V)),,@)
# What a container, root or a small machine needs of Open MPI; a cluster's own settings win.
export OMPI_ALLOW_RUN_AS_ROOT ?= 1
export OMPI_ALLOW_RUN_AS_ROOT_CONFIRM ?= 1
export OMPI_MCA_rmaps_base_oversubscribe ?= 1
export OMPI_MCA_hwloc_base_binding_policy ?= none
export OMPI_MCA_btl_tcp_if_include ?= lo
export OMPI_MCA_mpi_yield_when_idle ?= 1

# --- sources: a new file needs no edit here -----------------------------------------------------------------------------
SRC   := $(sort $(filter-out src/main.c,$(wildcard src/*/*.c)))
OBJ   := $(SRC:%.c=$(BUILD)/%.o)
TESTC := $(sort $(wildcard tests/t[0-9]*.c tests/e2e-*.c)) # e2e-: programs that shell tests use
TESTB := $(TESTC:tests/%.c=$(BUILD)/tests/%)
FUZZB := $(patsubst %.c,$(BUILD)/%,$(sort $(wildcard tests/fuzz/*.c)))

all: $(BUILD)/temper cuda-here ## build the program, and the CUDA plugin where a GPU and a toolkit are
	@ln -sfn $(BUILD)/temper temper

$(BUILD)/temper: $(BUILD)/src/main.o $(BUILD)/libtemper.a
	@echo "  LINK  $@"
	$(Q)$(ENV) $(MPICC) $(LDFLAGS_ALL) -o $@ $^ $(LIBS)
$(BUILD)/libtemper.a: $(OBJ)
	@echo "  AR    $@"
	$(Q)rm -f $@ && ar rcs $@ $^
$(BUILD)/%.o: %.c $(BUILD)/flags config.mk
	@mkdir -p $(@D)
	@echo "  CC    $<"
	$(Q)$(ENV) $(MPICC) $(CFLAGS_ALL) -c -o $@ $<
$(BUILD)/tests/%: $(BUILD)/tests/%.o $(BUILD)/libtemper.a
	@echo "  LINK  $@"
	$(Q)$(ENV) $(MPICC) $(LDFLAGS_ALL) -o $@ $^ $(LIBS)
$(BUILD)/tests/%.o: CFLAGS_ALL += -Itests
$(BUILD)/tests/fuzz/%: LDFLAGS_ALL += -fsanitize=fuzzer
.SECONDARY:
# The host kernels are compiled for speed; their source fixes the order of every sum, so this cannot change a bit.
$(BUILD)/src/dev/%.o: OPT += -O3

# Changed flags rebuild everything of this build.
$(BUILD)/flags: FORCE
	@mkdir -p $(BUILD)
	@echo '$(CFLAGS_ALL)' | cmp -s - $@ || echo '$(CFLAGS_ALL)' > $@
# The version lives in one object file, renewed when `git describe` says something else.
$(BUILD)/version: FORCE
	@mkdir -p $(BUILD)
	@echo '$(VERSION)' | cmp -s - $@ || echo '$(VERSION)' > $@
$(BUILD)/src/base/version.o: CFLAGS_ALL += -DTEMPER_VERSION='"$(VERSION)"'
$(BUILD)/src/base/version.o: $(BUILD)/version
# The handbook's chapters, one C string a line.
BOOK := $(sort $(wildcard src/stage/handbook/*.md))
$(BUILD)/gen/stage/handbook_text.inc: $(BOOK)
	@mkdir -p $(@D)
	$(Q)sed 's/[\\"]/\\&/g; s/.*/"&",/' $^ > $@
$(BUILD)/src/stage/handbook.o: private CFLAGS_ALL += -I$(BUILD)/gen
$(BUILD)/src/stage/handbook.o: $(BUILD)/gen/stage/handbook_text.inc
FORCE:

config.mk: scripts/configure
	@scripts/configure > $@.tmp && mv $@.tmp $@
configure: ## look for the libraries again and write config.mk
	@rm -f config.mk && $(MAKE) --no-print-directory config.mk && cat config.mk

setup: ## install what is missing (Debian and Ubuntu packages)
	@scripts/setup

# --- the embedded model's text, for `temper inputs/pretrain-austen.cfg` only ---------------------------------------------
austen-text: run/austen-text/emma.txt ## the six novels (Debian's r-cran-janeaustenr) into run/austen-text
run/austen-text/emma.txt:
	@mkdir -p run/austen-text
	cd run/austen-text && apt-get download r-cran-janeaustenr && cd ../.. && python3 scripts/austen.py run/austen-text/*.deb run/austen-text

# --- the CUDA plugin: kernels/ compiled by nvcc, and by g++ over kernels/emu to run on the CPU ---------------------------
# The toolkit: what `scripts/setup --cuda` unpacked, or the system's. The emulation needs its headers alone.
CUDA_HOME  ?= $(firstword $(wildcard run/cuda/toolkit /usr/local/cuda /opt/cuda) $(patsubst %/bin/nvcc,%,$(shell command -v nvcc)))
CUDA_HERE  := $(wildcard $(CUDA_HOME)/include/cuda_runtime_api.h)
NVCC       ?= $(or $(wildcard $(CUDA_HOME)/bin/nvcc),nvcc)
CUDA_ARCHS ?= 80 90a 100a 120a
CUDA_GPU   := $(wildcard /dev/nvidiactl /dev/dxg)
CXX        ?= g++
KERNELS    := $(sort $(wildcard kernels/*.cu))
# NCCL, where its header is: without it ranks pass device memory on through the host. NCCL_HOME: the folder of its include and lib.
NCCL_HOME  ?= $(CUDA_HOME)
NCCL_H     := $(firstword $(wildcard $(addsuffix /nccl.h,$(NCCL_HOME)/include /usr/include)))
NCCL_LIB   := $(firstword $(wildcard $(addsuffix /libnccl.so*,$(NCCL_HOME)/lib $(NCCL_HOME)/lib64 /usr/lib/*)))
NCCL_FLAGS := $(if $(NCCL_H),$(if $(NCCL_LIB),-DTEMPER_NCCL=1 -isystem $(patsubst %/,%,$(dir $(NCCL_H)))))
NCCL_LINK  := $(if $(NCCL_FLAGS),-Xlinker $(NCCL_LIB) -Xlinker -rpath=$(abspath $(dir $(NCCL_LIB))))
# What both sides of the plugin's table were compiled from.
CUDA_ABI   := $(shell cat src/dev/ops.def src/dev/ops.h src/dev/cuda_plugin.h | cksum | cut -d ' ' -f 1)
# cuBLASLt, where its header is: for products whose order of sums is free.
CUBLAS_HOME ?= $(CUDA_HOME)
CUBLASLT   := $(if $(wildcard $(CUBLAS_HOME)/include/cublasLt.h),1)
CUBLAS_LINK := $(if $(CUBLASLT),-L$(CUBLAS_HOME)/lib64 -L$(CUBLAS_HOME)/lib -lcublasLt -Xlinker -rpath=$(CUBLAS_HOME)/lib64:$(CUBLAS_HOME)/lib)
CUDA_DEFS   = -DTEMPER_CUDA_ABI='"$(CUDA_ABI)"' -Isrc -Ikernels -MMD -MP
# As for the host kernels: an fma only where the source has one. Warnings of the host compiler, the device compiler and ptxas are errors.
NVCCFLAGS   = -std=c++17 -O3 -fmad=false -lineinfo -t0 $(foreach a,$(CUDA_ARCHS),-gencode arch=compute_$(a),code=sm_$(a)) \
              $(if $(filter 1,$(WERROR)),-Werror all-warnings) -Xcompiler -fPIC,-fvisibility=hidden,-Wall $(CUDA_DEFS) $(NCCL_FLAGS) \
              $(if $(CUBLASLT),-DTEMPER_CUBLASLT=1 -isystem $(CUBLAS_HOME)/include)
$(BUILD)/src/dev/cuda.o: CFLAGS_ALL += -DTEMPER_CUDA_ABI='"$(CUDA_ABI)"'
$(BUILD)/src/dev/cuda.o: src/dev/ops.def src/dev/ops.h src/dev/cuda_plugin.h

cuda: build/cuda/libtemper_cuda.so ## build the CUDA plugin: make cuda [CUDA_ARCHS="80 90a"] [CUDA_HOME=dir]
	@mkdir -p $(BUILD) && ln -sfn ../cuda/libtemper_cuda.so $(BUILD)/libtemper_cuda.so
build/cuda/libtemper_cuda.so: $(KERNELS:kernels/%.cu=build/cuda/%.o)
	@echo "  LINK  $@"
	$(Q)$(NVCC) -shared -cudart static -o $@ $^ $(NCCL_LINK) $(CUBLAS_LINK)
build/cuda/%.o: kernels/%.cu build/cuda/flags
	@mkdir -p $(@D)
	@echo "  NVCC  $<"
	$(Q)$(NVCC) $(NVCCFLAGS) -DTEMPER_CUDA_BUILD='"sm $(CUDA_ARCHS); $(if $(CUBLASLT),cuBLASLt,no cuBLASLt: own products)"' -c -o $@ $<
build/cuda/flags: FORCE
	@command -v $(NVCC) >/dev/null || { echo "cuda: no nvcc here: set CUDA_HOME, or let scripts/setup --cuda bring a toolkit"; exit 1; }
	@mkdir -p $(@D)
	@echo '$(NVCCFLAGS)' | cmp -s - $@ || echo '$(NVCCFLAGS)' > $@
# What a plain `make` does: the plugin for the GPU that is here, or a line that says why there is none.
cuda-here:
ifeq ($(CUDA_HERE),)
	@echo "cuda: no toolkit here: built for the host alone (make cuda after scripts/setup --cuda builds the plugin)"
else ifeq ($(CUDA_GPU),)
	@echo "cuda: no GPU here: built for the host alone (make cuda builds the plugin)"
else
	@arch=$$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -n 1 | tr -d .); \
	case $$arch in 9?|1??) arch=$${arch}a ;; esac; \
	$(MAKE) --no-print-directory cuda CUDA_ARCHS="$${arch:-$(CUDA_ARCHS)}"
endif

# The emulated plugin, with SAN of its own: a sanitizer's library is g++'s.
EMUSAN     := $(if $(filter gcc%,$(notdir $(CC))),$(SAN))
EMU        := build/emu$(if $(EMUSAN),-$(EMUSAN))
EMUFLAGS    = -std=c++17 $(if $(EMUSAN),-O1 -Wno-array-bounds,-O2) -g -ffp-contract=off -fPIC -fvisibility=hidden -Wall -Wextra -Wno-unknown-pragmas -Wno-missing-field-initializers -Wno-psabi \
              $(if $(filter 1,$(WERROR)),-Werror) $(SANFLAGS.$(EMUSAN)) -Ikernels/emu -isystem $(CUDA_HOME)/include $(CUDA_DEFS) -DTEMPER_NCCL=1 \
              -DTEMPER_CUBLASLT=1
# NCCL is emulated over MPI.
MPICXX     ?= mpicxx
EMU_MPI     = OMPI_CXX=$(CXX) MPICH_CXX=$(CXX) $(MPICXX)
EMULIBS    := $(patsubst kernels/%.cc,$(EMU)/%.o,$(sort $(wildcard kernels/emu/*.cc)))
emu: $(EMU)/libtemper_cuda.so $(EMU)/planted ## build the plugin that runs the kernels on the CPU: make emu [SAN=tsan|asan|cov]
$(EMU)/libtemper_cuda.so: $(KERNELS:kernels/%.cu=$(EMU)/%.o) $(EMULIBS)
	@echo "  LINK  $@"
	$(Q)$(EMU_MPI) -shared $(SANFLAGS.$(EMUSAN)) -o $@ $^
$(EMU)/planted: $(patsubst %,$(EMU)/emu/%.o,planted fibers cudart streams faults)
	@echo "  LINK  $@"
	$(Q)$(CXX) $(SANFLAGS.$(EMUSAN)) -o $@ $^
$(EMU)/%.o: kernels/%.cu $(EMU)/flags
	@mkdir -p $(@D)
	@echo "  EMU   $<"
	$(Q)$(CXX) $(EMUFLAGS) -DTEMPER_CUDA_BUILD='"emulated on the CPU"' -x c++ -c -o $@ $<
$(EMU)/emu/%.o: kernels/emu/%.cc $(EMU)/flags
	@mkdir -p $(@D)
	@echo "  CXX   $<"
	$(Q)$(EMU_MPI) -DOMPI_SKIP_MPICXX -DMPICH_SKIP_MPICXX $(filter-out -fsanitize=thread,$(EMUFLAGS)) $(if $(filter tsan,$(EMUSAN)),-DCUEMU_TSAN) -c -o $@ $<
$(EMU)/flags: FORCE
	@test -n "$(CUDA_HERE)" || { echo "emu: no CUDA headers here: set CUDA_HOME, or let scripts/setup --cuda bring them"; exit 1; }
	@mkdir -p $(@D)
	@echo '$(EMUFLAGS)' | cmp -s - $@ || echo '$(EMUFLAGS)' > $@
-include $(wildcard build/cuda/*.d $(EMU)/*.d $(EMU)/emu/*.d)

# --- running and testing ------------------------------------------------------------------------------------------------
TESTS ?=

.PHONY: all setup configure austen-text prove run run-smollm2 test test-all test-emu test-cluster trials bench interop memcheck tsan fuzz fuzz-ci fuzz-targets lint format help info man handbook clean install cuda cuda-here emu FORCE

run: ## set up, build, and run the main job on $(NP) ranks
	@scripts/setup
	@$(MAKE) --no-print-directory all
	$(MPIRUN) -np $(NP) ./temper inputs/qad-austen.cfg
	@echo "report: run/qad-austen/report.html"

run-smollm2: ## a real model: fetch SmolLM2-135M-Instruct, convert it, FP8 and NVFP4 quantization, QAD, evaluation, export
	@scripts/setup
	@scripts/fetch-smollm2 run/smollm2
	@$(MAKE) --no-print-directory all austen-text
	./temper inputs/smollm2-convert.cfg
	./temper inputs/smollm2-fp8.cfg
	./temper inputs/smollm2-nvfp4.cfg
	@echo "reports: run/smollm2-fp8/report.html run/smollm2-nvfp4/report.html"

test: ## set up, build, run all tests of tier 1: make test [TESTS=t3]
	@scripts/setup
	@$(MAKE) --no-print-directory prove TIER=1
test-all: ## tier 2 too, then all of tier 1 with clang and with address and undefined sanitizers
	@scripts/setup
	@$(MAKE) --no-print-directory prove TIER=2
	@command -v clang >/dev/null && $(MAKE) --no-print-directory prove CC=clang || echo "test-all: clang is not installed: skipped"
	@$(MAKE) --no-print-directory prove SAN=asan
# The emulated plugin is among what is tested where a toolkit's headers and a C++ compiler are.
PROVE_EMU := $(and $(CUDA_HERE),$(shell command -v $(CXX)))
prove: $(BUILD)/temper $(TESTB) $(BUILD)/tests/bench-dev.o $(if $(PROVE_EMU),emu) # bench-dev: gpu-check packs it
	@$(if $(SAN),:,ln -sfn $(BUILD)/temper temper)
	@EMU=$(EMU) scripts/run-tests $(BUILD) $(or $(TIER),1) $(TESTS)

test-emu: ## the CUDA kernels on the CPU: orders of execution, races, bounds, planted bugs: make test-emu [TESTS=t241] [COVERAGE=1]
	@scripts/setup
	@$(MAKE) --no-print-directory $(BUILD)/temper $(TESTB)
	@$(if $(SANS),SANS="$(SANS)") $(if $(ORDERS),ORDERS="$(ORDERS)") scripts/test-emu $(BUILD) $(TESTS)

CLUSTER := $(BUILD)/temper $(BUILD)/tests/e2e-compare $(BUILD)/tests/t531-ckpt-save
test-cluster: $(CLUSTER) ## jobs on a real Slurm, several hosts, faults: make test-cluster [TESTS=c1] (root; packages: scripts/test-cluster)
	@scripts/test-cluster $(BUILD) $(TESTS)
trials: $(CLUSTER) ## kill and resume at random: make trials [TRIALS=200]
	@BUILD=$(BUILD) TEMPER=$(abspath $(BUILD))/temper scripts/trials $(or $(TRIALS),200)

bench: all $(BUILD)/tests/bench-sgemm ## against PyTorch and ModelOpt: make bench PEER_PYTHON=python MODEL=dir [QUICK=1] [OTHERS=0.05] [ONLY=group,...]
	@python3 scripts/bench.py --temper ./temper --sgemm $(BUILD)/tests/bench-sgemm --mpirun "$(MPIRUN)" --peer-python "$(PEER_PYTHON)" --model "$(MODEL)" \
	    $(if $(filter 1,$(QUICK)),--quick) $(if $(OTHERS),--others $(OTHERS)) $(if $(ONLY),--only "$(ONLY)")
interop: all ## exports, checkpoints and shards read by transformers, ModelOpt, safetensors, Megatron and h5py: make interop PEER_PYTHON=python
	@test -n "$(PEER_PYTHON)" || { echo "interop: set PEER_PYTHON to a Python with torch, transformers, nvidia-modelopt, safetensors and h5py"; exit 1; }
	@$(PEER_PYTHON) scripts/interop.py --temper ./temper --mpirun "$(MPIRUN)"
# The program with valgrind's wrappers of MPI functions, which check what is sent and mark what was received.
MPIWRAP ?= $(firstword $(wildcard /usr/lib/*/valgrind/libmpiwrap-*-linux.so))
$(BUILD)/temper-memcheck: $(BUILD)/src/main.o $(BUILD)/libtemper.a
	@test -n "$(MPIWRAP)" || { echo "memcheck: install valgrind and valgrind-mpi"; exit 1; }
	@echo "  LINK  $@"
	$(Q)$(ENV) $(MPICC) $(LDFLAGS_ALL) -o $@ $^ $(LIBS) -Wl,--no-as-needed $(MPIWRAP)
memcheck: $(BUILD)/temper-memcheck ## a small deck on 2 ranks under valgrind (packages valgrind, valgrind-mpi)
	@scripts/memcheck $(BUILD)/temper-memcheck
tsan: ## a small deck on 2 ranks and 2 threads under ThreadSanitizer (packages clang, libclang-rt-dev, libomp-dev)
	@$(MAKE) --no-print-directory CC=clang SAN=tsan build/clang-tsan/temper
	@scripts/tsan build/clang-tsan/temper
# Each parser of files from elsewhere under libFuzzer with address and undefined sanitizers (package clang).
FUZZ_MAKE := $(MAKE) --no-print-directory CC=clang SAN=fuzz OPT="-O1 -g"
FUZZ_SECONDS ?= 600
fuzz-ci: ## fuzz every parser for 20 s (package clang)
	@$(FUZZ_MAKE) fuzz-targets
	@scripts/fuzz build/clang-fuzz/tests/fuzz 20
fuzz: ## the same for longer, findings and corpora kept: make fuzz [FUZZ_SECONDS=600] [TARGET="deck gguf"]
	@$(FUZZ_MAKE) fuzz-targets
	@KEEP=1 scripts/fuzz build/clang-fuzz/tests/fuzz $(FUZZ_SECONDS) $(TARGET)
fuzz-targets: $(FUZZB)
lint: ## layers, sizes, style, headers, shell scripts
	@scripts/lint
format: ## rewrite the sources with clang-format
	@clang-format -i $$(git ls-files --cached --others --exclude-standard '*.c' '*.h' 'kernels/*.cu' 'kernels/*.cc')

info: ## what this build uses
	@echo "CC=$(CC) MPICC=$(MPICC) BUILD=$(BUILD) VERSION=$(VERSION)"; echo "DEPS_LIBS=$(DEPS_LIBS)"
man: $(BUILD)/temper ## the manual page, build/temper.1 (man -l build/temper.1)
	@$< --man > build/temper.1 && echo build/temper.1
handbook: $(BUILD)/temper ## the handbook, build/handbook.html
	@$< --handbook > build/handbook.html && echo build/handbook.html
help: ## this list
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | sort | column -t -s "$$(printf '\t')"
clean: ## remove what was built
	rm -rf build temper config.mk
install: $(BUILD)/temper ## install under $(DESTDIR)$(prefix)
	install -d $(DESTDIR)$(prefix)/bin $(DESTDIR)$(prefix)/share/temper
	install -m 755 $(BUILD)/temper $(DESTDIR)$(prefix)/bin/temper
	[ ! -e build/cuda/libtemper_cuda.so ] || install -D -m 755 build/cuda/libtemper_cuda.so $(DESTDIR)$(prefix)/lib/temper/libtemper_cuda.so
	cp -r inputs jobs $(DESTDIR)$(prefix)/share/temper/
	install -d $(DESTDIR)$(prefix)/share/man/man1
	$(BUILD)/temper --man > $(DESTDIR)$(prefix)/share/man/man1/temper.1
	$(BUILD)/temper --handbook > $(DESTDIR)$(prefix)/share/temper/handbook.html

-include $(OBJ:.o=.d) $(TESTB:=.d) $(FUZZB:=.d) $(BUILD)/src/main.d
