# temper as a Spack package: put this file into packages/temper/ of a repository of yours (spack repo create), then spack install temper.
from spack.package import *


class Temper(MakefilePackage, CudaPackage):
    """Post-training of transformers at scale: calibrate, quantize, distil, evaluate, generate, export, by MPI."""

    license("Apache-2.0")
    git = "file:///path/to/temper"  # a clone of yours

    version("main", branch="main")

    depends_on("c", type="build")
    depends_on("cxx", type="build", when="+cuda")
    depends_on("gmake", type="build")
    depends_on("pkgconfig", type="build")
    depends_on("perl", type="build")
    depends_on("mpi@3.1:")
    depends_on("hdf5@1.10: ~mpi +hl")
    depends_on("libconfig@1.5:")
    depends_on("openblas threads=openmp")
    depends_on("jansson")
    depends_on("xxhash")
    depends_on("pcre2")
    depends_on("hwloc")
    depends_on("cuda@12.8:", when="+cuda")
    depends_on("nccl", when="+cuda")

    def targets(self, cuda):
        return "CUDA_ARCHS=" + " ".join(self.spec.variants["cuda_arch"].value), "CUDA_HOME=" + cuda

    def build(self, spec, prefix):
        make("CC=cc", "MPICC=" + spec["mpi"].mpicc, "build/cc/temper")
        if "+cuda" in spec:
            make("NCCL_HOME=" + spec["nccl"].prefix, "cuda", *self.targets(spec["cuda"].prefix))

    def install(self, spec, prefix):
        make("CC=cc", "MPICC=" + spec["mpi"].mpicc, "prefix=" + prefix, "install")
