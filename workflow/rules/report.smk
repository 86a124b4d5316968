rule report:
    input:
        rules.tables.output,
        template="workflow/report/report.html.j2",
        code=ask.code("report"),
    output:
        "results/report.html",
    log:
        "logs/report.log",
    benchmark:
        "logs/report.tsv"
    # On a cluster it runs where Snakemake does: it reads a few small files and takes seconds.
    localrule: True
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=3000,
        runtime=30,
    params:
        run=config["run"],
    shell:
        "python -m rpg report --run {params.run:q} >{log:q} 2>&1"
