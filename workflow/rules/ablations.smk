rule ablations:
    input:
        expand(rules.ablation.output, ablation=ask.ablations()),
        code=ask.code("ablations"),
    output:
        tables="results/ablations.md",
        summary="results/ablations.json",
    log:
        "logs/ablations.log",
    benchmark:
        "logs/ablations.tsv"
    # On a cluster it runs where Snakemake does: it reads a few small files and takes seconds.
    localrule: True
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        ablations=ask.ablations(),
    shell:
        "python -m rpg ablations >{log:q} 2>&1"
