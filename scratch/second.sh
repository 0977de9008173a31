# second.sh DATA OUT SECONDS: before and after, kernel tables, options; one process at a time, nothing begun after SECONDS
D=$1 O=$2 END=$((SECONDS + $3)); S=scratch/speed.py
run() { n=$1 c=$2; shift 2; left=$((END - SECONDS)); [ $left -lt 15 ] && { echo "no time for $n"; return; }; export TORCHINDUCTOR_CACHE_DIR=/tmp/ind_$c; timeout $left python3 $S --data $D --name $n "$@" 2>$O/$n.err | tee $O/$n.out | grep '^==\|unknown' || { echo "$n failed"; tail -3 $O/$n.err; }; }
C='{"combo_kernels":true}'
run new new --preset seed1095 --table $O/new.table
run old old --preset seed1095 --old heads muon gradients --table $O/old.table
run dense dense --preset dense9 --table $O/dense.table
timeout 60 python3 scratch/mlp.py > $O/mlp.out 2>&1; cat $O/mlp.out
run combo combo --preset seed1095 --options "$C" --table $O/combo.table
run again combo --preset seed1095 --options "$C" --bench-steps 10
run dense65 dense65 --preset dense9 --batch-tokens 65536 --microbatch-tokens 65536
run seed131 seed131 --preset seed1095 --batch-tokens 131072 --microbatch-tokens 131072
run reads reads --preset seed1095 --options '{"combo_kernels":true,"realize_reads_threshold":3}'
run gemm gemm --preset seed1095 --options '{"max_autotune_gemm":true,"max_autotune_gemm_backends":"ATEN,TRITON"}' --table $O/gemm.table
run denseold denseold --preset dense9 --old heads muon gradients
