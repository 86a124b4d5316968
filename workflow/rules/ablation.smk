rule ablation:
    input:
        ask.trials,
        code=ask.code("ablation"),
    output:
        ensure("results/{ablation}/ablation.json", non_empty=True),
    log:
        "logs/{ablation}/ablation.log",
    benchmark:
        "logs/{ablation}/ablation.tsv"
    # On a cluster it runs where Snakemake does: it reads a few small files and takes seconds.
    localrule: True
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        choices=ask.ablation,
    shell:
        "python -m rpg ablation --experiment {wildcards.ablation:q} >{log:q} 2>&1"
