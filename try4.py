import time, os, sys, resource
import clonal
def f(): return time.monotonic_ns(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
if __name__=="__main__":
    for standby in (0,1):
        with clonal.Template(standby=standby) as t:
            rows=[]
            for n in range(60):
                while t.stats().standby_ready<standby: time.sleep(.001)
                with t.clone(f) as c: ns,flt=c.result()
                if n>20:
                    now=time.monotonic_ns()
                    rows.append([(x-c.begun_ns)/1e3 for x in (c.started_ns,ns,c.answered_ns)]+[flt])
            print(standby,[sorted(r[i] for r in rows)[len(rows)//2] for i in range(4)])
