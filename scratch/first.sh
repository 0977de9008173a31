# first.sh DATA OUT: kernel tables, single products, inductor's options on seed1095; one process at a time
export PYTHONPATH=$PWD D=$1 O=$2; S=scratch/speed.py
run() { n=$1; shift; export TORCHINDUCTOR_CACHE_DIR=/tmp/ind_$n; timeout 150 python3 $S --data $D --name $n "$@" 2>$O/$n.err | tee $O/$n.out | grep '^==\|unknown' || tail -3 $O/$n.err; }
timeout 60 python3 scratch/micro.py > $O/micro.out 2>&1
export TORCH_LOGS=output_code
run seed --preset seed1095 --table $O/seed.table
run seed131 --preset seed1095 --batch-tokens 131072 --microbatch-tokens 131072
run dense --preset dense9 --table $O/dense.table
run dense65 --preset dense9 --batch-tokens 65536 --microbatch-tokens 65536 --table $O/dense65.table
unset TORCH_LOGS
run again --preset seed1095
run pointwise --preset seed1095 --options '{"max_autotune_pointwise":true}'
run combo --preset seed1095 --options '{"combo_kernels":true,"aggressive_fusion":true}'
run gemm --preset seed1095 --options '{"max_autotune_gemm":true,"max_autotune_gemm_backends":"ATEN,TRITON"}'
run gemmtma --preset seed1095 --options '{"max_autotune_gemm":true,"max_autotune_gemm_backends":"ATEN,TRITON","triton.enable_persistent_tma_matmul":true}'
T=$(python3 -c 'import torch;print(torch.__path__[0])'); mkdir -p $O/ind; cp $T/_inductor/{config,choices}.py $T/_inductor/kernel/mm.py $T/_inductor/template_heuristics/triton.py $O/ind/ 2>/dev/null
gzip -f $O/*.err; head -41 $O/seed.table $O/dense.table; cat $O/micro.out
