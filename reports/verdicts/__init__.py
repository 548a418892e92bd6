"""What the runs say of the paper's figures and claims.

A figure is judged by equivalence: reproduced when the 90% interval of our mean minus the figure, whose own error
counts, lies inside the margin, contradicted when the 95% interval lies wholly outside. A claim is judged by one-sided
paired t tests on the logarithm of scores over shared training seeds, at least five, with Holm's correction over all
claims of a tier, run or not: so no verdict depends on which tables are looked at, and none is lost when another claim's
runs are added. Tiers and protocols never meet, since every table has one. Nothing is decided while a training seed has
only failed runs: the others would be a choice. Errors are held to 5% for a number of seeds that was fixed beforehand.
"""
