import time, os, sys, threading
import clonal
from clonal.kernel import procfs
def f(x): return x+1
def setup():
    threading.Thread(target=time.sleep, args=(1000,), daemon=True, name="sleeper").start()
if __name__=="__main__":
    with clonal.Template(setup=setup) as t:
        print(t, t.dropped_threads, t._process._child, t.pid)
        print(t.clone(f,1).result())
        print(open(f"/proc/{t._process._child}/status").read()[:60], open(f"/proc/{t._process._child}/statm").read())
    print(t._process.status)
    for standby in (0,1,2):
        with clonal.Template(standby=standby) as t:
            for n in range(200):
                with t.clone(f,1) as c: c.result()
            a=time.perf_counter()
            for n in range(200):
                t.clone(f,1).result()
                #time.sleep(.002)
            b=time.perf_counter()
            print(standby, (b-a)/200*1e3, t.stats())
            xs=[]
            for n in range(200):
                while t.stats().standby_ready<standby: time.sleep(.001)
                a=time.perf_counter(); c=t.clone(f,1); c.result()
                xs.append(time.perf_counter()-a)
                c.wait()
            xs.sort(); print("idle median ms", xs[100]*1e3, c.usage)
