"""The noisy quadratic problem of Section 3.1 and Appendix C: simulation, theory, and Figure 1."""
