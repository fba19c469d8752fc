import time, os, sys, resource
import clonal
def f(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
if __name__=="__main__":
    for standby in (0,1):
        with clonal.Template(standby=standby) as t:
            for n in range(20):
                with t.clone(f) as c: c.result()
                if standby:
                    while t.stats().standby_ready<standby: time.sleep(.001)
            print(c.result(), c.usage, (c.started_ns-c.begun_ns)/1e3, (c.answered_ns-c.begun_ns)/1e3, (c.ended_ns-c.answered_ns)/1e3)
        print(t.report)
