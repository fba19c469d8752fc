import time, os, sys, resource
import clonal
def f():
    from clonal.clone import standby
    return standby._prefaulted
def regions():
    import struct
    out=[]
    from clonal.kernel import procfs
    fd=os.open("/proc/self/pagemap",0)
    vm=[(v.start,v.end,v.perms,v.path) for v in procfs.maps() if v.private]
    for s,e,p,path in vm:
        try: d=os.pread(fd,(e-s)//4096*8,s//4096*8)
        except OSError: continue
        a=struct.unpack(f"={len(d)//8}Q",d)
        own=sum(1 for x in a if x>>63 and not x>>61&1 and x>>56&1)
        pres=sum(1 for x in a if x>>63)
        if pres: out.append((own,pres,(e-s)//4096,p,path))
    return out
if __name__=="__main__":
        with clonal.Template(standby=1) as t:
            for n in range(20):
                while t.stats().standby_ready<1: time.sleep(.001)
                with t.clone(f) as c: c.result()
            print(c.result(), c.usage)
        with clonal.Template() as t:
            r=t.clone(regions).result()
            for x in sorted(r,reverse=True): print(x)
