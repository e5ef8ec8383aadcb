import triton

from indexfuzz.implementations.loading.amd_kernel import make_portable


class Recorder(triton.runtime.jit.KernelInterface):
    arg_names = ("x", "kpack")

    def run(self, *args, grid, warmup, **kwargs):
        self.seen = (grid, args, kwargs)


def test_hints_to_amd_s_compiler_are_left_out_and_parameters_stay():
    class Module:
        kernel = Recorder()
        other = 5

    kernel = Module.kernel
    launched = make_portable(Module).kernel[(3,)](1, waves_per_eu=2, matrix_instr_nonkdim=16, kpack=1, num_warps=4)
    assert kernel.seen == ((3,), (1,), {"kpack": 1, "num_warps": 4})
    assert launched.hash
    assert Module.other == 5
