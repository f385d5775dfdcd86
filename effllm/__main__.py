from effllm.cli import main

main(prog_name="effllm")
